import Dict exposing (Dict)
import Json.Decode as Decode
import Json.Encode as Encode


fromObject : a -> Decode.Decoder a
fromObject build =
    Decode.map (\_ -> build) (Decode.keyValuePairs Decode.value)


fromArray : a -> Decode.Decoder a
fromArray build =
    Decode.map (\_ -> build) (Decode.list Decode.value)


andMap : Decode.Decoder a -> Decode.Decoder (a -> b) -> Decode.Decoder b
andMap decoder build =
    Decode.map2 (\make found -> make found) build decoder


required : String -> Decode.Decoder a -> Decode.Decoder (a -> b) -> Decode.Decoder b
required name decoder =
    andMap (Decode.field name decoder)


ifPresent : Decode.Decoder a -> Decode.Decoder a -> Decode.Decoder Decode.Value -> Decode.Decoder a
ifPresent decoder other place =
    Decode.andThen
        (\found ->
            case found of
                Just _ ->
                    decoder

                Nothing ->
                    other
        )
        (Decode.maybe place)


fromText : Decode.Decoder a -> String -> Decode.Decoder a
fromText decoder text =
    case Decode.decodeString decoder text of
        Ok found ->
            Decode.succeed found

        Err _ ->
            Decode.fail "the default does not fit its type"


defaulted : String -> Decode.Decoder a -> String -> Decode.Decoder (a -> b) -> Decode.Decoder b
defaulted name decoder text =
    andMap (ifPresent (Decode.field name decoder) (fromText decoder text) (Decode.field name Decode.value))


defaultedAt : Int -> Decode.Decoder a -> String -> Decode.Decoder (a -> b) -> Decode.Decoder b
defaultedAt index decoder text =
    andMap (ifPresent (Decode.index index decoder) (fromText decoder text) (Decode.index index Decode.value))


optional : String -> Decode.Decoder a -> Decode.Decoder (Maybe a -> b) -> Decode.Decoder b
optional name decoder =
    andMap
        (ifPresent
            (Decode.map Just (Decode.field name decoder))
            (Decode.succeed Nothing)
            (Decode.field name Decode.value)
        )


constant : Decode.Decoder a -> a -> b -> Decode.Decoder b
constant decoder wanted result =
    Decode.andThen
        (\found ->
            if found == wanted then
                Decode.succeed result

            else
                Decode.fail "Invalid value"
        )
        decoder


checkTag : String -> Decode.Decoder tag -> tag -> Decode.Decoder a -> Decode.Decoder a
checkTag name decoder tag result =
    Decode.andThen (\_ -> result)
        (ifPresent
            (Decode.field name (constant decoder tag ()))
            (Decode.succeed ())
            (Decode.field name Decode.value)
        )


checkFirst : Decode.Decoder tag -> tag -> Decode.Decoder a -> Decode.Decoder a
checkFirst decoder tag result =
    Decode.andThen (\_ -> result) (Decode.index 0 (constant decoder tag ()))


checkMost : Int -> Decode.Decoder a -> Decode.Decoder a
checkMost most result =
    Decode.andThen (\_ -> result) (sized 0 most List.length (Decode.list Decode.value))


refuseUnknown : List String -> Decode.Decoder a -> Decode.Decoder a
refuseUnknown known result =
    Decode.andThen
        (\pairs ->
            if List.all (\( name, _ ) -> List.member name known) pairs then
                result

            else
                Decode.fail "Object contains an unknown field"
        )
        (Decode.keyValuePairs Decode.value)


byTag : Decode.Decoder tag -> List ( tag, Decode.Decoder a ) -> Decode.Decoder a
byTag decoder members =
    Decode.andThen
        (\tag ->
            case List.filter (\( each, _ ) -> each == tag) members of
                ( _, found ) :: _ ->
                    found

                [] ->
                    Decode.fail "Invalid tag"
        )
        decoder


intBetween : Int -> Int -> Decode.Decoder Int
intBetween low high =
    Decode.andThen
        (\found ->
            if found >= low && found <= high then
                Decode.succeed found

            else
                Decode.fail "Expected an int within its bounds"
        )
        Decode.int


sized : Int -> Int -> (a -> Int) -> Decode.Decoder a -> Decode.Decoder a
sized least most size decoder =
    Decode.andThen
        (\found ->
            if size found >= least && size found <= most then
                Decode.succeed found

            else
                Decode.fail "Expected a length within its limits"
        )
        decoder


orNull : (a -> Encode.Value) -> Maybe a -> Encode.Value
orNull encoder found =
    case found of
        Just inner ->
            encoder inner

        Nothing ->
            Encode.null


present : String -> (a -> Encode.Value) -> Maybe a -> List ( String, Encode.Value )
present name encoder found =
    case found of
        Just inner ->
            [ ( name, encoder inner ) ]

        Nothing ->
            []
