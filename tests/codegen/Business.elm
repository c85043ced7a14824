module Business exposing (..)

import Client exposing (..)


type alias Response =
    { status : Int }


processChannelJoin : { channel : String, members : List SessionId } -> Context -> ( List Effect, Response )
processChannelJoin req ctx =
    let
        session =
            ctx.session
    in
    ( [ updateSessionContext { session | current_channel = req.channel } ctx
      , SSEBroadcast req.members (UserJoined { user_id = ctx.session.user_id })
      ]
    , { status = 200 }
    )


scheduleWelcomeEmail : EmailData -> Context -> Effect
scheduleWelcomeEmail emailData ctx =
    ScheduleEvent
        { event_type = "SendWelcomeEmail"
        , session_id = ctx.sessionId
        , payload = emailData
        , delay_minutes = 10
        }


processWelcomeEmail : Event -> Context -> ( List Effect, Response )
processWelcomeEmail event _ =
    if isSessionActive event then
        ( [ SendToSession event.session_id WelcomeEmailSent
          , App (TriggerWebhook { target = "SendGrid", payload = event.payload })
          ]
        , { status = 200 }
        )

    else
        ( [ LogEvent "welcome_email_session_expired" event ], { status = 200 } )


processCommentAdded : Comment -> Int -> List SessionId -> Context -> ( List Effect, Response )
processCommentAdded comment now subscribers ctx =
    let
        session =
            getSessionContext ctx
    in
    ( [ App (Insert { table = "comments", row = comment })
      , SSEBroadcast subscribers (CommentAdded { comment = comment })
      , updateSession { session | last_activity = now }
      ]
    , { status = 201 }
    )


processGameMove : String -> SessionId -> Context -> ( List Effect, Response )
processGameMove move opponent _ =
    ( [ SSEBroadcast [ opponent ] (PlayerMoved { move = move }), BroadcastAll (PlayerMoved { move = move }) ]
    , { status = 200 }
    )


minimal : MinimalSession
minimal =
    {}


game : GameSession
game =
    { player_id = "ann", current_game = Nothing, game_role = GameRolePlayer, skill_level = 3 }


firstDocument : CollabSession -> String
firstDocument session =
    case session.active_documents of
        first :: _ ->
            first

        [] ->
            session.user_id
