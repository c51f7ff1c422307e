"""Ordinary English words that are in no caption, so that the tokenizer meets more than its own."""

_WORDS = """
able about across actually adventure after again airplane album alien all almost alone also always amazing ancient
angel angry animal anime another any anything appears arch arm army around artist ask astronaut atmosphere attention
autumn awake away awesome baby back bad bag bamboo band bank barn bath bear beard become bed bee before behind believe
bell better between bicycle bike blanket blurry board body bone book boots both bottle bowl boy branch bread break
breakfast breathtaking bridge bring brother brown brush bubble build building bunch burning bus business butter button
buy cake call camera camp can candle candy captain card careful carry castle cave celebrating center chair character
charming cheese chest chicken child children chocolate church circus clean clear climbing clock close closeup cloth
clothes coat coffee cold collage comic coming common computer cookie copper corner could country couple course cow
cozy crab crazy creature crown crying crystal cup curious curtain cutting dance dancing danger daughter dead decorated
deer delicate demon depth desk different dinner dinosaur dirty distant doctor dog dolphin donkey door dragon dramatic
dream dress drink driving drop duck dust each eagle ear earth eat edge egg elegant elephant elf empty end energy
engine english enjoy epic even ever every everything evil explosion expression eye face fairy fall famous fantastic
fantasy far farm fashion fast father feather feel fence fight film fine finger fire fireplace first flag flame floor
focus food foot for forever form found fountain fox frame free friend frog from fruit fun funny furniture future
galaxy game garden gate gentle ghost gift giraffe girl give glass globe glory goat god going gold good gorgeous grand
grandmother grape graphic grass great ground guitar hair hall hand hanging happy hard has hat have head hear heaven
height helmet help her here hero him his history holding holiday holy home honey hope horror horse hospital hotel how
human hungry hyperrealistic ice idea if imagine insect inside interesting interior into iron island itself jacket
japanese jar jewel job joy juice jump jungle just keep kid kind king kingdom kiss kitchen knife knight know lady lake
lamp land lantern last laughing leaf leather leaves leg lemon lens let letter level library life lighting like lion
lips listen live lizard locomotive logo long look lost loud love low luxury machine made magic mail make man map
marble mask master material maybe medieval meet metal microphone middle might milk mind mirror model modern moment
money monkey monster more most mother motion mouse mouth move movie much museum music my mysterious name narrow nature
neck need nest never new newspaper nine nobody noise north nose nothing now number octopus office oil old olive only
or our out outside owl own page paint paintbrush palace panda paper parade park part party pasta path pattern peace
pencil people perfect person photograph photorealistic piano picnic piece pig pillow pirate pizza place plane planet
plant plate play point police pond pool portrait poster pot potato powerful present princess print professional
pumpkin purse put puzzle queen question quick race rail railway rays reading real realistic really reflection render
restaurant retro ride ring river road robot rock roof room rope rose running sad sandwich say scarf scary school
science scientist screen sculpture season see serene shadow shark sheep shelf shelter shiny shirt shoe shop short
should shoulder silent silhouette silk silver since singing sister sitting skin skull sleeping slow smile smoke snake
so soft soldier something son song soup south spider spirit spoon sport spring squirrel stage stairs station statue
steam steel still stone store storm story straight strange street string strong sugar suit sunglasses super surreal
surrounded sweater sweet swimming sword symbol symmetrical table tail take tale tea teacher team teddy telephone
temple tent texture than thank that their them then there these they thing think this those throne through ticket
tiger time tired today together tomato too tooth tower toy track traditional train travel treasure tribal trophy truck
trust turtle ultra umbrella underwater unicorn universe until upon us use van vegetable vehicle velvet very victorian
video village vintage violin volcano waiting walking wall want war warm warrior watch waterfall wave way we wearing
wedding week well west whale what wheat wheel when where which who whole why wide wild wind window wine wings wise
wizard wolf woman wonder wood wooden word work world would writing year you young your zebra zombie
"""
COMMON_WORDS = tuple(_WORDS.split())
