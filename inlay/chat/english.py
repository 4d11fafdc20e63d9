"""Words of English that tell where a noun phrase begins and ends: closed classes, common verbs."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DETERMINERS = _words(
    "a an the this these those my your his her its our their whose some any each every no another "
    "both all several many few much either neither half such"
)
NUMBERS = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety "
    "hundred thousand dozen"
)
AUXILIARIES = _words(
    "is are was were be been being am isn't aren't wasn't weren't has have had hasn't haven't do "
    "does did doesn't don't didn't can could will would shall should may might must cannot can't "
    "won't there's it's that's"
)
INTENSIFIERS = _words("very quite rather so too more most less least extremely really")
PRONOUNS = _words(
    "i me mine myself you yours yourself he him himself she hers herself it itself we us ourselves "
    "they them themselves theirs who whom what which someone somebody something anyone anybody "
    "anything everyone everybody everything nobody nothing none others"
)
# Prepositions, particles, adverbs and words that join clauses: no noun phrase runs over them.
LINKS = _words(
    "of in on at by for from with without within into onto to toward towards over under above "
    "below beneath underneath between among amongst through throughout across along alongside "
    "around about against near nearby beside besides behind before after during until till since "
    "past off out up down away apart aside inside outside beyond despite except upon via per atop "
    "amid opposite like unlike as than if while when where whereas because although though unless "
    "whether that how why then there here now also just only even still again already almost "
    "together not yes ok okay upside forward backward backwards upward upwards downward downwards "
    "sideways ahead too else however well maybe perhaps often always never soon later ago "
    "back"
)
CONJUNCTIONS = _words("and or nor but & /")
ADJECTIVES = _words(
    "red orange yellow green cyan blue purple pink brown black white gray grey silver gold golden "
    "beige tan violet turquoise maroon teal dark light bright pale big large huge giant small "
    "little tiny tall short long wide narrow thick thin fat slim high low deep shallow heavy old "
    "young new modern ancient vintage fresh clean dirty empty full open closed hot cold warm cool "
    "wet dry soft hard smooth rough sharp flat round oval curved straight pretty beautiful cute "
    "nice good bad great happy sad angry ugly friendly lovely silly lonely curly hilly early late "
    "wooden metallic furry fluffy fuzzy hairy shiny cloudy sunny snowy sandy grassy rocky rainy "
    "foggy icy muddy dusty rusty leafy busy crowded lush ripe raw tasty delicious plain striped "
    "colorful colourful colored coloured same different similar other next last first second third "
    "main middle upper lower front rear left right top bottom central single double whole entire "
    "various multiple available visible male female asian african electric plastic indoor outdoor "
    "urban rural public private tropical adult elderly blond blonde brunette naked bare asleep "
    "awake alone alive dead ready real fake free safe quiet loud fast slow strong weak relevant "
    "important"
)
ADJECTIVE_NOUNS = _words(
    "light orange gold silver top bottom front back middle plastic adult female male cold dark "
    "left right"
)
"""Adjectives that are nouns where no noun follows: "a traffic light"."""
# They name a place or a measure, not a thing that a mask could show.
PLACES = _words(
    "left right top bottom front back rear middle center centre side sides end edge part lot lots "
    "kind type sort way fact case variety number couple addition order other others one's front "
    "view distance"
)
PICTURES = _words("image picture photo photograph scene frame")
PLURALS = _words("people men women children kids sheep geese cattle police feet teeth")

PARTICIPLE_NOUNS = _words(
    "building ceiling painting clothing railing wing ring king thing string evening morning "
    "wedding awning topping frosting icing crossing landing lightning siding parking "
    "railing spring earring stuffing dressing swing drawing duckling pudding herring living "
    "dining wiring sling bed shed sled seed weed bobsled speed feed breed reed steed "
    "hundred"
)
LY_NOUNS = _words(
    "fly family jelly belly lily butterfly dragonfly bully assembly ally supply reply"
)

_VERBS = (
    "sit hold wear eat carry make take get go come give put see lie lay hang lean bring keep let "
    "contain include appear seem become grow consist describe depict feature prepare serve enjoy "
    "pull push lift reach touch grab pick ask tell say think know want need try attempt begin "
    "start continue perform compete participate gather surround locate situate attach install "
    "connect arrange stack decorate fill cover top wrap hide share pet kiss hug sleep chase bite "
    "graze climb crouch kneel swim read write cook bake chop slice pour prepare celebrate "
    "skateboard snowboard listen speak chat drink walk run stare gaze peek relate belong "
    "learn teach build remain stay leave arrive enter allow suggest indicate happen create add"
)
_NOUN_VERBS = (
    "ride play stand look jump drive swing talk wait watch fly hit throw catch pitch rest pose "
    "smile display show use work cut turn travel move jog race dance kick drop float "
    "skate ski surf pass face point help rise cross"
)
_IRREGULAR = (
    "sat held wore worn ate eaten made took taken got gotten went gone came gave given saw seen "
    "lain laid hung leant brought kept became grew grown chose chosen hid hidden bit bitten "
    "knelt swam swum wrote written spoke spoken drank drunk told said thought knew known began "
    "begun taught built left rode ridden stood drove driven flew flown threw thrown caught shown "
    "led felt found fed slept shone sprayed"
)


def _forms(word: str) -> tuple[str, str, str]:
    """The forms in -s, -ing and -ed of a regular verb."""
    is_short = len(word) < 5 and word[-1] in "bdgmnpt" and word[-2] in "aeiou"
    stem = word + word[-1] if is_short and word[-3:-2] not in set("aeiou") else word
    if word.endswith("ie"):
        return word + "s", word[:-2] + "ying", word + "d"
    if word.endswith("e"):
        return word + "s", word[:-1] + "ing", word + "d"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies", word + "ing", word[:-1] + "ied"
    plural = word + "es" if word.endswith(("s", "sh", "ch", "x", "o")) else word + "s"
    return plural, stem + "ing", stem + "ed"


VERBS = (_words(_IRREGULAR) - {"left"}) | {
    form for word in _VERBS.split() for form in (word, *_forms(word))
}
"""Forms that are verbs wherever nothing before them asks for a noun."""

NOUN_VERBS = _words(_NOUN_VERBS) | {_forms(word)[0] for word in _NOUN_VERBS.split()}
"""Forms that are nouns as often: their place decides."""
