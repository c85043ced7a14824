{-| The address of a session. Only the encoder of an effect can encode it, so no message contains one.
-}
type SessionId
    = SessionId String


decodeSessionId : Decode.Decoder SessionId
decodeSessionId =
    Decode.map SessionId Decode.string


encodeSessionId : SessionId -> Encode.Value
encodeSessionId (SessionId text) =
    Encode.string text


{-| What a request or an event knows of its session.
-}
type alias Context =
    { sessionId : SessionId, session : «SESSION», host : String, requestId : String }


decodeContext : Decode.Decoder Context
decodeContext =
    fromObject (\id session host request -> { sessionId = id, session = session, host = host, requestId = request })
        |> required "session_id" decodeSessionId
        |> required "session" «decode SESSION»
        |> required "host" Decode.string
        |> required "request_id" Decode.string


{-| An event that is due. Whether its session is still active travels with it.
-}
type alias Event =
    { event_type : String, session_id : SessionId, payload : «PAYLOAD», session_active : Bool }


decodeEvent : Decode.Decoder Event
decodeEvent =
    fromObject (\kind id payload active -> { event_type = kind, session_id = id, payload = payload, session_active = active })
        |> required "event_type" Decode.string
        |> required "session_id" decodeSessionId
        |> required "payload" «decode PAYLOAD»
        |> required "session_active" Decode.bool


isSessionActive : Event -> Bool
isSessionActive event =
    event.session_active


type Effect
    = SendToSession SessionId «MESSAGES»
    | SSEBroadcast (List SessionId) «MESSAGES»
    | BroadcastAll «MESSAGES»
    | ScheduleEvent { event_type : String, session_id : SessionId, payload : «PAYLOAD», delay_minutes : Int }
    | UpdateSession «SESSION»
    | LogEvent String Event
    --- | App «EFFECTS»


getSessionContext : Context -> «SESSION»
getSessionContext context =
    context.session


updateSession : «SESSION» -> Effect
updateSession =
    UpdateSession


updateSessionContext : «SESSION» -> Context -> Effect
updateSessionContext session _ =
    UpdateSession session


encodeEffect : Effect -> Encode.Value
encodeEffect effect =
    let
        tagged kind fields =
            Encode.object (( "type", Encode.string kind ) :: fields)
    in
    case effect of
        SendToSession id message ->
            tagged "SendToSession" [ ( "session_id", encodeSessionId id ), ( "message", «encode MESSAGES» message ) ]

        SSEBroadcast ids message ->
            tagged "SSEBroadcast" [ ( "session_ids", Encode.list encodeSessionId ids ), ( "message", «encode MESSAGES» message ) ]

        BroadcastAll message ->
            tagged "BroadcastAll" [ ( "message", «encode MESSAGES» message ) ]

        ScheduleEvent event ->
            tagged "ScheduleEvent"
                [ ( "event_type", Encode.string event.event_type )
                , ( "session_id", encodeSessionId event.session_id )
                , ( "payload", «encode PAYLOAD» event.payload )
                , ( "delay_minutes", Encode.int event.delay_minutes )
                ]

        UpdateSession session ->
            tagged "UpdateSession" [ ( "session", «encode SESSION» session ) ]

        LogEvent text event ->
            tagged "LogEvent"
                [ ( "name", Encode.string text )
                , ( "event_type", Encode.string event.event_type )
                , ( "session_id", encodeSessionId event.session_id )
                , ( "payload", «encode PAYLOAD» event.payload )
                ]
--- 
        --- App own ->
            --- tagged "App" [ ( "effect", «encode EFFECTS» own ) ]
