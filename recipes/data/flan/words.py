"""Word lists and small facts behind the tasks of make.py; written for this repository."""

ANTONYMS = """hot cold|big small|fast slow|early late|open closed|full empty|light dark|high low|near far|old new|rich poor|strong weak|
wet dry|loud quiet|hard soft|clean dirty|thick thin|wide narrow|deep shallow|sharp blunt|happy sad|brave cowardly|cheap expensive|
safe dangerous|true false|right wrong|inside outside|above below|before after|always never|begin end|buy sell|push pull|win lose|
arrive depart|accept refuse|remember forget|build destroy|rise fall|love hate|sweet bitter|smooth rough|simple complicated|
polite rude|ancient modern|guilty innocent|public private|major minor|maximum minimum|import export|borrow lend|ascend descend|
expand shrink|generous stingy|lazy diligent|temporary permanent|visible invisible|vertical horizontal|artificial natural|freeze melt"""
SYNONYMS = """big large|small little|quick fast|begin start|end finish|happy glad|angry furious|smart clever|hard difficult|easy simple|
shout yell|odd strange|calm peaceful|brave courageous|rich wealthy|sick ill|tired weary|silent quiet|build construct|repair fix|
choose select|reply answer|gather collect|huge enormous|tiny minute|funny amusing|kind gentle|buy purchase|help assist|allow permit|
show display|hide conceal|close shut|throw toss|jump leap|cry weep|sad unhappy|rude impolite|correct right|error mistake|
near close|empty vacant|trip journey|job occupation|house home|street road|picture image|gift present|law rule|speech talk"""
PLURALS = """cat cats|dog dogs|box boxes|bus buses|baby babies|city cities|leaf leaves|knife knives|wolf wolves|child children|man men|
woman women|tooth teeth|foot feet|goose geese|mouse mice|sheep sheep|deer deer|tomato tomatoes|potato potatoes|hero heroes|photo photos|
piano pianos|church churches|dish dishes|glass glasses|key keys|toy toys|party parties|story stories|country countries|shelf shelves|
half halves|life lives|wife wives|thief thieves|ox oxen|person people|cactus cacti|crisis crises|analysis analyses|fox foxes|
watch watches|brush brushes|lady ladies|monkey monkeys|roof roofs|chief chiefs|belief beliefs|berry berries|table tables|chair chairs"""
PAST = """go went|see saw|take took|give gave|run ran|eat ate|drink drank|sing sang|swim swam|begin began|write wrote|ride rode|drive drove|
speak spoke|break broke|choose chose|freeze froze|fly flew|grow grew|know knew|throw threw|draw drew|wear wore|tear tore|buy bought|
bring brought|think thought|teach taught|catch caught|fight fought|find found|hold held|keep kept|sleep slept|leave left|feel felt|
meet met|lead led|read read|build built|send sent|spend spent|lose lost|win won|sit sat|stand stood|walk walked|play played|stop stopped|
carry carried|study studied|try tried|hope hoped|call called"""
CAPITALS = """France Paris|Germany Berlin|Italy Rome|Spain Madrid|Portugal Lisbon|Finland Helsinki|Sweden Stockholm|Norway Oslo|
Denmark Copenhagen|Iceland Reykjavik|Ireland Dublin|Poland Warsaw|Austria Vienna|Hungary Budapest|Greece Athens|Turkey Ankara|Egypt Cairo|
Kenya Nairobi|Ghana Accra|Morocco Rabat|Senegal Dakar|Ethiopia Addis_Ababa|Japan Tokyo|China Beijing|India New_Delhi|Nepal Kathmandu|
Thailand Bangkok|Vietnam Hanoi|Indonesia Jakarta|Australia Canberra|Canada Ottawa|Mexico Mexico_City|Cuba Havana|Peru Lima|Chile Santiago|
Argentina Buenos_Aires|Brazil Brasília|Colombia Bogotá|Ecuador Quito|Uruguay Montevideo|Estonia Tallinn|Latvia Riga|Lithuania Vilnius|
Ukraine Kyiv|Romania Bucharest|Bulgaria Sofia|Serbia Belgrade|Croatia Zagreb|Slovenia Ljubljana|Belgium Brussels"""
CONTINENTS = """France Europe|Germany Europe|Italy Europe|Poland Europe|Finland Europe|Greece Europe|Ireland Europe|Portugal Europe|
Egypt Africa|Kenya Africa|Ghana Africa|Morocco Africa|Senegal Africa|Ethiopia Africa|Nigeria Africa|Namibia Africa|Japan Asia|China Asia|
India Asia|Nepal Asia|Thailand Asia|Vietnam Asia|Mongolia Asia|Jordan Asia|Canada North_America|Mexico North_America|Cuba North_America|
Panama North_America|Guatemala North_America|Jamaica North_America|Peru South_America|Chile South_America|Argentina South_America|
Brazil South_America|Colombia South_America|Ecuador South_America|Uruguay South_America|Bolivia South_America"""
ANIMAL_YOUNG = """dog puppy|cat kitten|cow calf|horse foal|sheep lamb|goat kid|pig piglet|duck duckling|goose gosling|hen chick|bear cub|
lion cub|deer fawn|kangaroo joey|swan cygnet|frog tadpole|owl owlet|eagle eaglet|rabbit kit|whale calf|elephant calf|seal pup|
fox cub|wolf pup|spider spiderling|fish fry|butterfly caterpillar|llama cria|hare leveret|turkey poult"""
CATEGORIES = {
    "fruit": "apple pear plum cherry banana grape lemon mango peach melon fig orange",
    "animal": "horse tiger rabbit otter eagle salmon beetle camel goat penguin lizard moose",
    "vehicle": "car lorry bicycle tram ship canoe helicopter tractor scooter bus train van",
    "tool": "hammer saw drill chisel wrench pliers screwdriver rake spade axe ladder file",
    "instrument": "violin piano flute drum trumpet guitar harp cello oboe banjo organ tuba",
    "clothing": "shirt coat scarf glove sock skirt jacket hat trousers sweater belt boot",
}
TRANSLATE = {
    "German": "house Haus|dog Hund|cat Katze|water Wasser|bread Brot|tree Baum|book Buch|day Tag|night Nacht|friend Freund|school Schule|"
    "milk Milch|apple Apfel|door Tür|window Fenster|street Straße|city Stadt|child Kind|hand Hand|eye Auge|fire Feuer|snow Schnee|rain Regen|"
    "summer Sommer|winter Winter|bird Vogel|fish Fisch|chair Stuhl|table Tisch|clock Uhr|letter Brief|money Geld|work Arbeit|king König|"
    "bridge Brücke|flower Blume|garden Garten|kitchen Küche|heart Herz|moon Mond",
    "Spanish": "house casa|dog perro|cat gato|water agua|bread pan|tree árbol|book libro|day día|night noche|friend amigo|school escuela|"
    "milk leche|apple manzana|door puerta|window ventana|street calle|city ciudad|child niño|hand mano|eye ojo|fire fuego|snow nieve|rain lluvia|"
    "summer verano|winter invierno|bird pájaro|fish pez|chair silla|table mesa|clock reloj|letter carta|money dinero|work trabajo|king rey|"
    "bridge puente|flower flor|garden jardín|kitchen cocina|heart corazón|moon luna",
    "Finnish": "house talo|dog koira|cat kissa|water vesi|bread leipä|tree puu|book kirja|day päivä|night yö|friend ystävä|school koulu|"
    "milk maito|apple omena|door ovi|window ikkuna|street katu|city kaupunki|child lapsi|hand käsi|eye silmä|fire tuli|snow lumi|rain sade|"
    "summer kesä|winter talvi|bird lintu|fish kala|chair tuoli|table pöytä|clock kello|letter kirje|money raha|work työ|king kuningas|"
    "bridge silta|flower kukka|garden puutarha|kitchen keittiö|heart sydän|moon kuu",
}
NAMES = "Anna Ben Carla David Emma Felix Greta Hugo Ines Jonas Kaisa Leo Maria Nils Olga Paul Rosa Simon Tina Viktor".split()
PLACES = "the library|the station|the market|the museum|the harbour|the school|the park|the bakery|the office|the airport".split("|")
OBJECTS = "a lamp|a kettle|a raincoat|a notebook|a bicycle|a suitcase|a radio|a blanket|a mirror|a guitar".split("|")
GOOD = ("works perfectly|arrived two days early|is better than I hoped|was worth every cent|made my week|feels sturdy and well made|"
        "was easy to set up|looks beautiful in our hall|has never let me down|is a joy to use").split("|")
BAD = ("broke on the second day|arrived a week late|is worse than the old one|was a waste of money|ruined my week|feels flimsy and cheap|"
       "was impossible to set up|looks nothing like the picture|stopped working at once|is a pain to use").split("|")


def pairs(text):
    """`a b|c d` → [("a", "b"), …]; `_` stands for a space."""
    return [tuple(w.replace("_", " ") for w in pair.split()) for pair in text.replace("\n", "").split("|")]
