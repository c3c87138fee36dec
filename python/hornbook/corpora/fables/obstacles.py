"""What stands in the way, and the three ways past it.

``clause`` follows a comma ("Halfway to the harbor, ..."). ``wit`` and ``tooled`` follow "the fox": what the
hero does alone, and with the tool that came along that morning. ``guided`` follows "it", the helper.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Obstacle:
    clause: str
    wit: str
    tool: str
    tooled: str
    guided: str


OBSTACLES = {
    "a fallen bridge": Obstacle(
        "the bridge had fallen into the brook, and brown water roared by",
        "walked upstream to where two boulders nearly met, and jumped",
        "a long plank",
        "laid the long plank from bank to bank and walked across",
        "led {N} to a row of flat stones, where they crossed with dry feet",
    ),
    "a fallen tree": Obstacle(
        "a huge oak had fallen, and its branches stood up like a fence",
        "found a gap below the trunk and crept through",
        "a sharp saw",
        "cut branch after branch with the sharp saw until the path was open",
        "showed {N} a hidden trail around the roots",
    ),
    "a bramble thicket": Obstacle(
        "brambles covered the path, with thorns as long as needles",
        "rolled a log onto the brambles and walked along the top",
        "a pair of shears",
        "cut a tunnel through the thorns with the pair of shears, snip by snip",
        "held the thorns aside until {N} was through",
    ),
    "a thick fog": Obstacle(
        "a thick fog rolled down from the heights and swallowed the road",
        "followed the murmur of a stream until the fog lay behind",
        "a walking stick",
        "tapped along with the walking stick and never lost the road",
        "went ahead, calling softly to {N}, until the fog grew thin",
    ),
    "deep mud": Obstacle(
        "rain had turned the road into bottomless mud",
        "hopped from one tuft of grass to the next and did not sink",
        "a pair of boards",
        "laid down the pair of boards, walked along, and laid them down again",
        "led {N} along the edge, where the ground was firm",
    ),
    "a locked gate": Obstacle(
        "a tall iron gate was shut, and its lock was brown with rust",
        "saw that the hinges were loose and lifted the gate right off",
        "an oil can",
        "dripped oil from the oil can into the lock, and it clicked open",
        "pulled the ivy aside and showed {N} a gap beside the gate",
    ),
    "a big bull": Obstacle(
        "a big bull stood in the road, snorted, and pawed the ground",
        "praised its horns until the bull was so pleased that it stepped aside",
        "a bunch of carrots",
        "held out the bunch of carrots, and the bull became as tame as a lapdog",
        "led {N} behind the hedge, where the bull could not see them",
    ),
    "a dark tunnel": Obstacle(
        "the road ran into a tunnel as black as a chimney",
        "felt along the wall and counted every step until daylight came",
        "a wax candle",
        "lit the wax candle, and the shadows fled into the corners",
        "knew every turn of the tunnel and brought {N} out into the daylight",
    ),
    "a steep cliff": Obstacle(
        "a steep cliff rose up, and there was no path around it",
        "found a crack in the cliff and climbed it like a staircase",
        "a coil of rope",
        "threw the coil of rope around a stump and climbed up",
        "showed {N} some narrow steps that monks had carved long ago",
    ),
    "a snowdrift": Obstacle(
        "old snow still filled the high pass from side to side",
        "stamped the snow into stairs and went over the top",
        "a stout shovel",
        "dug a lane through the snow with the stout shovel",
        "led {N} through a crack in the rock where no snow ever fell",
    ),
    "a swarm of bees": Obstacle(
        "a swarm of angry bees hummed above the path",
        "laid clover in the grass, and the bees forgot about the path",
        "a pot of jam",
        "set the pot of jam under a bush, and all the bees flew down to it",
        "waded with {N} along the stream, where the bees did not follow",
    ),
    "a flooded ford": Obstacle(
        "the ford was flooded, and not one stepping stone could be seen",
        "climbed onto a drifting log and paddled over",
        "a tall pole",
        "felt for the stones with the tall pole and crossed from one to the next",
        "asked a fisherman to row {N} to the other side",
    ),
    "a cross troll": Obstacle(
        "a cross troll sat on a footbridge and let nobody pass",
        "asked the troll a riddle and tiptoed by while it scratched its head",
        "a round cheese",
        "rolled the round cheese down the bank, and the troll ran after it",
        "told the troll that its supper was burning, and {N} slipped by",
    ),
    "a missing signpost": Obstacle(
        "the road split into seven, and the signpost had blown away",
        "looked for fresh wheel tracks and followed them",
        "a folded map",
        "spread out the folded map, turned it twice, and saw the right way",
        "pointed {N} to the third road, the one with daisies on both sides",
    ),
    "a wild storm": Obstacle(
        "a wild storm broke, and the wind bent the poplars to the ground",
        "told jokes to the beetles under a ledge until the storm was over",
        "an oilskin coat",
        "buttoned up the oilskin coat, leaned into the storm, and went on",
        "sat with {N} in a hollow log until the storm was over",
    ),
    "a high wall": Obstacle(
        "a stone wall crossed the road, higher than any house",
        "piled up loose stones until they made a staircase",
        "a light ladder",
        "set the light ladder against the wall and was over in no time",
        "knew of a little door in the wall and knocked on it for {N}",
    ),
    "a wide ditch": Obstacle(
        "a ditch had been dug across the road, too wide for any jump",
        "bent down a young willow and let it swing {him} over the ditch",
        "a sturdy beam",
        "pushed the sturdy beam over the ditch and balanced along it",
        "showed {N} where the sides of the ditch had crumbled into a ramp",
    ),
    "a flock of sheep": Obstacle(
        "two hundred sheep filled the road from hedge to hedge",
        "called like a shepherd, and the sheep trotted off into a field",
        "a sack of oats",
        "poured out the sack of oats, and the sheep crowded around it",
        "had a word with the oldest sheep, and they all made room for {N}",
    ),
    "a giant web": Obstacle(
        "a spider had spun a web across the path, as big as a sail",
        "made the spider giggle until it drew the web aside like a curtain",
        "a straw broom",
        "rolled up the web on the straw broom and begged the spider's pardon",
        "asked the spider politely to let {N} pass below the web",
    ),
    "an overturned cart": Obstacle(
        "a cart had overturned in a narrow lane and blocked it with barrels",
        "rolled the barrels away, the smallest first, and squeezed by",
        "an iron bar",
        "heaved with the iron bar until the cart stood on its wheels again",
        "fetched its cousins, and together with {N} they set the cart upright",
    ),
    "a rockslide": Obstacle(
        "half of the slope had come down and buried the road in rubble",
        "pulled out one small stone, and the rubble slid away by itself",
        "a squeaky wheelbarrow",
        "carried off the rubble, load by load, in the squeaky wheelbarrow",
        "led {N} up to a ledge that ran safely above the rubble",
    ),
    "a toll keeper": Obstacle(
        "a toll keeper asked for a coin, and {N} had no money",
        "swept the yard instead, and the keeper called it a fair price",
        "a needle and thread",
        "mended the keeper's sleeve with the needle and thread, and that paid the toll",
        "whispered to the keeper, who blushed and waved {N} through",
    ),
    "a sleeping dragon": Obstacle(
        "a dragon lay asleep on the road, smoke curling from its nose",
        "breathed in time with the dragon and tiptoed past its tail",
        "a peacock feather",
        "tickled the dragon with the peacock feather until it sneezed and rolled over",
        "hummed a lullaby so deep that the dragon never noticed {N}",
    ),
    "an empty ferry": Obstacle(
        "the ferryman was gone, and the ferry lay empty by the wide water",
        "pushed off at the bend, where the current carries everything across",
        "an ash oar",
        "rowed the ferry across with the ash oar",
        "called the ferryman out of bed to take {N} across",
    ),
    "an army of ants": Obstacle(
        "an endless army of ants was marching over the path",
        "bent two stalks into an arch and stepped over the ants",
        "a bag of sugar",
        "sprinkled the bag of sugar far off, and the ants wheeled to the left",
        "spoke to the captain of the ants, and the whole army halted for {N}",
    ),
    "a deep pit": Obstacle(
        "the ground gave way, and {N} slid into a deep pit",
        "kicked footholds into the clay and climbed out of the pit",
        "a strong hook",
        "caught a root with the strong hook and climbed out of the pit",
        "let down a vine and hauled {N} out of the pit",
    ),
    "a burning sun": Obstacle(
        "the sun burned until the stones were too hot to walk on",
        "wove a sunshade and sandals out of palm leaves",
        "a flask of lemonade",
        "drank the flask of lemonade in small sips and was as good as new",
        "led {N} from shade to shade, and then to a cool well",
    ),
    "a giant boulder": Obstacle(
        "a boulder as round as an egg had rolled onto the road",
        "scraped away the sand below the boulder, and it rolled off on its own",
        "a heavy crowbar",
        "leaned on the heavy crowbar, and the boulder rocked and rolled away",
        "squeezed past the boulder and pulled {N} along",
    ),
    "a stern guard": Obstacle(
        "a guard with a spear let no strangers by",
        "asked for the name of the guard, and so they were no longer strangers",
        "a jug of cider",
        "offered the thirsty guard the jug of cider, and down went the spear",
        "was the guard's oldest friend, and so {N} was let through",
    ),
    "a noisy quarrel": Obstacle(
        "two peddlers were quarreling in the road and would not budge",
        "asked what the quarrel was about, and neither of the peddlers could remember",
        "a bag of plums",
        "handed around the bag of plums, and with full mouths nobody can quarrel",
        "made the peddlers laugh, and {N} walked through between them",
    ),
}
