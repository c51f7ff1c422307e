"""The fixed lists of `bot/moderation.py`: lower case, without accents, words separated by one space.

They name what is refused in the plainest form; spellings are undone before they are compared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bot.prompts.text import fold


@dataclass(frozen=True, slots=True)
class Group:
    """Terms of one meaning: whole words, beginnings of words, phrases, and signs of scripts without spaces."""

    words: frozenset[str]
    stems: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    signs: tuple[str, ...] = ()


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _signs(text: str) -> tuple[str, ...]:
    return tuple(fold(sign.replace("_", " ")) for sign in text.split())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(f" {' '.join(line.split())} " for line in text.split(",") if line.strip())


ALWAYS = Group(
    words=_words(
        "lolicon shotacon toddlercon lolicons shotacons jailbait childporn kiddieporn kidporn pedoporn cunny csam"
        " pedo paedo pedos paedos preteensex teensex"
    ),
    stems=("pedophil", "paedophil", "hebephil", "childsex", "childporn"),
    phrases=_phrases(
        "child porn, child pornography, kiddie porn, kid porn, teen porn, child sex, kid sex, underage sex, cheese pizza cp,"
        "loli hentai, shota hentai, sexual minor, sexualized minor, pre teen porn, preteen porn"
    ),
    signs=_signs("児童ポルノ 儿童色情 兒童色情 아동포르노 детское_порно"),
)

MINORS = Group(
    words=_words(
        """child children childs childlike childrens kid kids kiddie kiddy kiddo kiddos toddler toddlers baby babies infant
        infants newborn newborns preschooler preschoolers kindergartener kindergartner kindergarteners preteen preteens tween
        tweens teen teens teenage teenaged teenager teenagers adolescent adolescents underage underaged minors youngster
        youngsters juvenile juveniles schoolgirl schoolgirls schoolboy schoolboys schoolkid schoolkids schoolchild
        schoolchildren highschooler highschoolers loli lolis lolita lolitas shota shotas boy boys prepubescent pubescent
        prepubertal
        kinder kleinkind schulmadchen minderjahrig minderjahrige minderjahriger jugendliche enfant enfants fillette fillettes
        ecoliere mineure nino ninos ninita colegiala colegialas menores crianca criancas menininha menininho bambina bambine
        bambini bambino ragazzina ragazzine dziecko dziecka dzieci ребенок ребенка дети детеи детка девочка девочки мальчик
        мальчики школьница школьницы малолетка малолетки подросток несовершеннолетняя cocuk cocuklar"""
    ),
    phrases=_phrases(
        """little girl, little girls, young girl, young girls, small girl, small girls, tiny girl, tiny girls, teen girl,
        school girl, school girls, pre teen, pre teens, pre schooler, middle schooler, middle school girl, middle school
        student, elementary school, elementary schooler, grade schooler, primary school, high school girl, high school girls,
        high school student, high school students, high schooler, high schoolers, junior high, jr high, under age, a minor,
        under 18, under eighteen, below 18, not yet 18, younger than 18, kleines madchen, petite fille, petites filles,
        nina pequena, barely a teen, girl child, his daughter, her daughter, his young daughter"""
    ),
    signs=_signs("ロリ ショタ 幼女 少女 少年 女児 男児 子供 子ども 小学生 中学生 女子高生 萝莉 蘿莉 正太 儿童 兒童 小孩 女童 男童 幼童 未成年 아동 어린이 미성년 소녀 로리"),
)  # fmt: skip

SEXUAL = Group(
    words=_words(
        """nude nudes nudity nudist nudists naked nakedness nsfw sex sexy sexual sexually sexualised sexualized sexier hentai
        topless bottomless undressed unclothed genitals genitalia genital penis penises dick dicks vagina vaginas vulva pussy
        pussies breasts boobs boob boobies tits titties nipples areola areolas anal anus orgasm orgasms masturbating
        masturbation intercourse bdsm fetish lingerie thong thongs panties pantyless upskirt cameltoe lewd lewds ecchi ahegao
        seductive seductively sensual sensually horny aroused arousing blowjob blowjobs handjob handjobs fellatio cunnilingus
        creampie gangbang bukkake cum cumshot cumming rape raped raping molest molested molesting incest stripper striptease
        underwear xxx clit clitoris futanari futa deepthroat threesome orgy slut slutty whore fuck fucked fucking
        fucks dildo vibrator ejaculation semen
        nackt nackte nackter nacktes nu nue nus nues desnuda desnudo desnudas desnudos nua nuas pelada pelado nuda nude nudo
        sexo sesso sexe erotisch erotique erotico erotica golaya naga nagie голая голые голыи голои секс порно обнаженная
        эротика ciplak seks"""
    ) - _words("nu nus naga"),
    stems=("porn", "erotic", "masturbat", "molest", "undress", "orgasm", "sexuali", "fuck"),
    phrases=_phrases(
        """no clothes, no clothing, without clothes, without clothing, without any clothes, wearing nothing, wearing no clothes,
        not wearing anything, not wearing clothes, spread legs, legs spread, spreading legs, bare breast, bare
        breasts, bare chest, bare chested, bare bottom, bare butt, bare ass, bare bum, making love, see through clothes, see
        through dress, see through shirt, micro bikini, taking off clothes, taking off her clothes, taking off his clothes,
        clothes off, private parts, camel toe, oral sex, huge breasts, in her bra, in a bra, adult content, x
        rated"""
    ),
    signs=_signs("裸 ヌード エロ エッチ セックス 性的 下着 全裸 色情 性爱 性愛 做爱 做愛 내복노출 누드 섹스 야한 알몸"),
)  # fmt: skip

ADULTS = Group(
    words=_words("adult adults grownup grownups mature erwachsene adulte adulto"),
    phrases=_phrases("grown up, grown ups, grown woman, grown man, over 18, 18 plus, older than 18, of age"),
)

CLOTHES = Group(
    words=_words("clothes clothing clothed dressed garment garments attire apparel censored censorship censor sfw"),
    phrases=_phrases("fully clothed, wearing clothes"),
)

_AGE = r"(?:1[0-7]|0?[1-9]|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen)"

AGES = (
    re.compile(rf" {_AGE} ?(?:years?|yrs?|yr|y) ?(?:olds?|o) "),
    re.compile(rf" {_AGE} ?(?:yo|yos|yearold|yearolds|y o) "),
    re.compile(rf" (?:age|aged|ages) (?:of )?{_AGE} (?!(?:years|months|weeks|days|hours)? ?(?:ago|later|century|centuries))"),
    re.compile(rf" {_AGE} years? of age "),
    re.compile(rf" (?:looks?|looking|turned|turning|is|only|just) {_AGE} (?:years )?(?:girl|boy|daughter|son|student) "),
    re.compile(rf" {_AGE} (?:jahrige|jahriges|jahre alt|ans|anos|anni|лет) "),
    re.compile(r" (?:young|little|youthful|younger) (?:\w+ ){1,2}(?:girl|girls|daughter) "),
)  # fmt: skip

_ANIMALS = (
    "animals?|bears?|birds?|bunny|bunnies|camels?|cats?|chicks?|cows?|deer|dinosaurs?|dragons?|ducks?|elephants?|fox|foxes|"
    "giraffes?|goats?|hedgehogs?|horses?|kangaroos?|koalas?|lions?|monkeys?|otters?|owls?|pandas?|penguins?|pigs?|rabbits?|"
    "raccoons?|rhinos?|seals?|sheep|sloths?|squirrels?|tigers?|turtles?|whales?|wolf|wolves|yoda|groot"
)
_TINTS = "lipsticks?|makeup|tones?|shades?|colou?rs?|colou?red|heels?|palette|nails?|nail polish|beige|pumps"

HARMLESS = tuple(
    re.compile(rf"(?<= )(?:{pattern}) ")
    for pattern in (
        rf"baby (?:{_ANIMALS})", rf"juvenile (?:{_ANIMALS})", "baby blue", "baby pink", "baby yellow", "baby s breath", "baby grand",
        "baby oil", "baby doll", "baby bump", "kid gloves", "kid leather", "julia child", "kid rock", "inner child",
        rf"nude (?:{_TINTS})", "nude mouse", "nude mice", "naked mole rats?", "naked (?:trees?|branches|bulbs?|flames?|cakes?|rock)", "dick and jane", "naked eye", "same sex", "opposite sex", "sex education",
        "sex ed", "moby dick", "philip k dick", "dick tracy", "dick van dyke", "pussy willows?", "pussy cats?", "great tits",
        "blue tits?", "coal tits?", "cum laude", "chicken breasts", "turkey breasts", "duck breasts", "rape ?seed", "rape fields?",
        "rape blossoms?", "rape flowers?", "bottomless (?:pit|pits|well|ocean|sea|lake|chasm|abyss)", "sex and the city",
        "breasts? feeding", "boys? s? ?choir",
    )
)  # fmt: skip
"""Phrases that hold a listed word and mean neither; they are taken out before anything is compared."""
