"""Where the road leads, and what the hero wants there: each place has two wants, each want its own ending.

A want is written without a pronoun, so that the hero can say it too ("I will go to the orchard and pick
pears"). Its ending is what happens on arrival.
"""

from __future__ import annotations

# place: ((want, ending), (want, ending))
PLACES = {
    "the orchard": (
        (
            "pick pears for a birthday cake",
            "In the orchard the pears were ripe, and {N} filled a basket for the cake.",
        ),
        (
            "ask the beekeeper for honey",
            "In the orchard the beekeeper gave {N} a jar of honey as clear as amber.",
        ),
    ),
    "the harbor": (
        (
            "watch the tall ships come in",
            "In the harbor {N} counted eleven tall ships, each with its sails full of wind.",
        ),
        (
            "buy salt for the winter soup",
            "In the harbor a sailor poured {N} a bag of salt that still smelled of the ocean.",
        ),
    ),
    "the market": (
        (
            "trade walnuts for warm wool",
            "At the market {N} traded the walnuts for wool as soft as a cloud.",
        ),
        (
            "hear the storyteller",
            "At the market the storyteller was so funny that {N} laughed until {he} cried.",
        ),
    ),
    "the windy hill": (
        (
            "count the shooting stars",
            "On the windy hill the sky grew dark, and {N} counted forty shooting stars.",
        ),
        (
            "fly a paper glider",
            "On the windy hill the paper glider rose and turned, and {N} cheered.",
        ),
    ),
    "the birch wood": (
        (
            "look for mushrooms",
            "In the birch wood the mushrooms stood in rings, and {N} took three of each.",
        ),
        (
            "hear the nightingale",
            "In the birch wood the nightingale sang three songs, and {N} did not dare to breathe.",
        ),
    ),
    "the salt marsh": (
        (
            "see the cranes dance",
            "In the salt marsh the cranes danced two by two, and {N} danced along.",
        ),
        (
            "cut reeds for a new roof",
            "In the salt marsh {N} cut reeds and tied them into neat bundles.",
        ),
    ),
    "the mountain lake": (
        (
            "learn to swim",
            "In the mountain lake {N} splashed and sank, and then, all at once, {he} was swimming.",
        ),
        (
            "visit a very old aunt",
            "By the mountain lake the old aunt was waiting for {N} with hot chocolate.",
        ),
    ),
    "the vineyard": (
        (
            "help with the grape harvest",
            "In the vineyard {N} picked grapes until every basket was full.",
        ),
        (
            "ask for a twig of the oldest vine",
            "In the vineyard the gardener cut {N} a twig to plant by a sunny wall.",
        ),
    ),
    "the rose garden": (
        (
            "smell the famous black rose",
            "In the rose garden {N} smelled the black rose, and it was like cinnamon and rain.",
        ),
        (
            "deliver an important letter",
            "In the rose garden a lady read the letter twice and kissed {N} on both cheeks.",
        ),
    ),
    "the waterfall": (
        (
            "fill a bottle with clean water",
            "At the waterfall {N} held out the bottle, and it was full in a blink.",
        ),
        (
            "find the end of a rainbow",
            "At the waterfall {N} found the end of the rainbow, dancing in the spray.",
        ),
    ),
    "the village square": (
        (
            "join the midsummer parade",
            "In the village square {N} marched behind the trumpets until the confetti fell.",
        ),
        (
            "sing in the choir",
            "In the village square the choir was one voice short, and {N} sang as well as {he} could.",
        ),
    ),
    "the pebble beach": (
        (
            "gather shells for a necklace",
            "On the pebble beach {N} gathered shells in pink and gray, enough for a long necklace.",
        ),
        (
            "wave to the whales",
            "On the pebble beach {N} waved, and far out one of the whales lifted its tail.",
        ),
    ),
    "the old quarry": (
        (
            "hunt for fossils",
            "In the old quarry {N} split a stone, and there lay a fossil like a curled fern.",
        ),
        (
            "shout to the echo",
            "In the old quarry {N} shouted good day, and the echo said it back seven times.",
        ),
    ),
    "the pine forest": (
        (
            "collect cones for the stove",
            "In the pine forest {N} collected a sackful of cones, dry and sweet with resin.",
        ),
        (
            "sleep one night under the trees",
            "In the pine forest {N} slept on a bed of needles, and the moon kept watch.",
        ),
    ),
    "the lavender field": (
        (
            "gather lavender for soap",
            "In the lavender field {N} gathered armfuls of blossoms while the crickets hummed.",
        ),
        (
            "draw a picture of the blossoms",
            "In the lavender field {N} drew until the violet crayon was gone.",
        ),
    ),
    "the ferry landing": (
        (
            "meet a cousin from overseas",
            "At the ferry landing the cousin came ashore and hugged {N} for a whole minute.",
        ),
        (
            "send a parcel to an uncle",
            "At the ferry landing the captain took the parcel and gave {N} a receipt.",
        ),
    ),
    "the glass workshop": (
        (
            "watch the glassblowers",
            "In the glass workshop {N} watched a glowing bubble grow into a vase.",
        ),
        (
            "replace a broken window pane",
            "In the glass workshop {N} was given a new pane, wrapped in straw.",
        ),
    ),
    "the monastery": (
        (
            "borrow a book of songs",
            "In the monastery a monk lent {N} the book of songs and blew the dust from its pages.",
        ),
        (
            "taste the famous cheese",
            "In the monastery {N} tasted the cheese, and it was worth every mile.",
        ),
    ),
    "the palace": (
        (
            "dance at the royal feast",
            "In the palace {N} danced until midnight, and even the queen clapped.",
        ),
        (
            "bring the king a message",
            "In the palace the king read the message and made {N} a knight of the realm.",
        ),
    ),
    "the warm spring": (
        (
            "take a hot bath",
            "In the warm spring {N} sat up to the neck in hot water and wished for nothing more.",
        ),
        (
            "fetch mud for a sore knee",
            "At the warm spring {N} scooped up the healing mud and packed it in leaves.",
        ),
    ),
    "the tulip valley": (
        (
            "buy tulip bulbs",
            "In the tulip valley {N} chose twelve tulip bulbs, round and brown as onions.",
        ),
        (
            "go up in a balloon",
            "In the tulip valley the balloon went up, and below {N} the fields lay like ribbons.",
        ),
    ),
    "the pumpkin patch": (
        (
            "choose a pumpkin for the harvest supper",
            "In the pumpkin patch {N} chose the biggest pumpkin and rolled it to the gate.",
        ),
        (
            "see the friendly scarecrow",
            "In the pumpkin patch {N} shook the sleeve of the scarecrow, and it seemed to wink.",
        ),
    ),
    "the sheep pasture": (
        (
            "learn how to knit",
            "In the sheep pasture a shepherd taught {N} to knit, and soon there was half a sock.",
        ),
        (
            "find a lost lucky penny",
            "In the sheep pasture {N} searched the clover, and there the lucky penny glittered.",
        ),
    ),
    "the canyon": (
        (
            "see the ancient paintings",
            "In the canyon {N} found the ancient paintings, a whole herd racing over the rock.",
        ),
        (
            "hang a wish on the wishing tree",
            "In the canyon {N} hung a wish on the wishing tree, and a breeze took it at once.",
        ),
    ),
    "the summer fair": (
        (
            "enter the pie contest",
            "At the summer fair the judges ate every crumb of the pie and gave {N} a ribbon.",
        ),
        (
            "win the sack race",
            "At the summer fair {N} hopped as if on springs and won the sack race by a nose.",
        ),
    ),
    "the clock shop": (
        (
            "have an alarm clock mended",
            "In the clock shop a single screw was turned, and {N} heard the alarm clock tick.",
        ),
        (
            "become a clockmaker",
            'In the clock shop the clockmaker put an apron on {N} and said, "Welcome, apprentice."',
        ),
    ),
    "the lily pond": (
        (
            "skip stones",
            "At the lily pond {N} made one stone skip nine times, right to the other shore.",
        ),
        (
            "float a paper boat",
            "At the lily pond {N} set down the paper boat, and it sailed off between the lilies.",
        ),
    ),
    "the strawberry meadow": (
        (
            "pick strawberries for jam",
            "In the strawberry meadow {N} ate one strawberry for every two that went in the pail.",
        ),
        (
            "share a picnic with old friends",
            "In the strawberry meadow the friends had spread a picnic, and {N} ate for two.",
        ),
    ),
    "the island": (
        (
            "search for buried treasure",
            "On the island {N} dug by a palm, and the buried treasure was a chest of lemons.",
        ),
        (
            "visit the hermit",
            "On the island the hermit, who seldom spoke, told {N} stories and made tea.",
        ),
    ),
    "the observatory": (
        (
            "look at the moon through the telescope",
            "In the observatory {N} looked through the telescope, and the moon was full of mountains.",
        ),
        (
            "ask the astronomer about comets",
            "In the observatory the astronomer drew {N} a comet with a tail three pages long.",
        ),
    ),
}
