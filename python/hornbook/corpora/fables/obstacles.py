"""What stands in the way, and the three ways past it.

``clause`` follows a comma ("Halfway there, ..."). ``wit`` and ``tooled`` are whole sentences; ``tooled``
uses the tool that the hero took along that morning. ``guided`` follows "it", the helper.
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
        "the bridge over the brook had fallen, and brown water roared between the banks",
        "The {kind} walked upstream to a place where two boulders nearly met, and jumped across.",
        "a long plank",
        "The {kind} laid the long plank from bank to bank and walked across.",
        "led {N} to a row of flat stones, where they crossed with dry feet",
    ),
    "a fallen tree": Obstacle(
        "a huge oak had fallen across the path, and its branches stood up like a fence",
        "The {kind} found a gap below the trunk and crept through.",
        "a sharp saw",
        "With the sharp saw the {kind} cut branch after branch until the path was open.",
        "showed {N} a hidden trail that went around behind the roots",
    ),
    "a bramble thicket": Obstacle(
        "brambles had grown over the path, with thorns as long as needles",
        "The {kind} rolled a log onto the brambles and walked along the top of it.",
        "a pair of shears",
        "Snip by snip, the {kind} cut a tunnel with the pair of shears.",
        "held the thorns aside for {N}, one by one, until they were through",
    ),
    "a thick fog": Obstacle(
        "a thick fog rolled down from the heights and swallowed the road",
        "The {kind} followed the murmur of a stream until the fog lay behind.",
        "a walking stick",
        "The {kind} tapped the edge of the road with the walking stick and never once went astray.",
        "went ahead of {N}, calling softly, until the fog grew thin",
    ),
    "deep mud": Obstacle(
        "rain had turned the road into mud so deep that it had no bottom",
        "The {kind} hopped from one tuft of grass to the next and did not sink.",
        "a pair of boards",
        "The {kind} laid down the pair of boards, one before the other, and walked over the mud like a king.",
        "took {N} along a ditch where the ground was firm",
    ),
    "a locked gate": Obstacle(
        "a tall iron gate stood shut, and its lock was brown with rust",
        "The {kind} saw that the hinges were loose and lifted the gate right off them.",
        "an oil can",
        "The {kind} dripped oil from the oil can into the lock, and it clicked open.",
        "pulled the ivy aside for {N}, and there was a hole in the wall",
    ),
    "a big bull": Obstacle(
        "a big bull stood in the road, snorted, and pawed the ground",
        "The {kind} bowed and praised its horns, and the bull was so pleased that it stepped aside.",
        "a bunch of carrots",
        "The {kind} held out the bunch of carrots, and the bull trotted after them like a lapdog.",
        "led {N} along the far side of the hedge, where the bull could not see them",
    ),
    "a dark tunnel": Obstacle(
        "the road ran into a tunnel as black as a chimney",
        "The {kind} kept one shoulder to the wall and counted every step until daylight came.",
        "a wax candle",
        "The {kind} lit the wax candle, and the shadows fled into the corners.",
        "knew every turn of the tunnel and brought {N} out into the daylight",
    ),
    "a steep cliff": Obstacle(
        "a cliff rose straight up, and there was no path around it",
        "The {kind} found a crack in the cliff and climbed it like a staircase.",
        "a coil of rope",
        "The {kind} threw the coil of rope around a stump and climbed up, foot by foot.",
        "showed {N} some narrow steps that the monks had carved long ago",
    ),
    "a snowdrift": Obstacle(
        "the pass was so high that old snow still filled it from side to side",
        "The {kind} stamped the snow into stairs and went over the top.",
        "a stout shovel",
        "The {kind} dug a lane through the snow with the stout shovel.",
        "led {N} through a crack in the rock where no snow ever fell",
    ),
    "a swarm of bees": Obstacle(
        "a swarm of angry bees hummed above the path",
        "The {kind} laid an armful of clover in the grass, and the bees forgot about the path.",
        "a pot of jam",
        "The {kind} set the pot of jam under a bush, and every one of the bees flew down to it.",
        "waded with {N} along the stream, where the bees did not follow",
    ),
    "a flooded ford": Obstacle(
        "the ford was flooded, and not one stepping stone could be seen",
        "The {kind} climbed onto a drifting log and paddled over.",
        "a tall pole",
        "The {kind} felt for the stones with the tall pole and crossed from one to the next.",
        "asked a fisherman to row {N} to the other side",
    ),
    "a cross troll": Obstacle(
        "a cross troll sat in the middle of a bridge and let nobody pass",
        "The {kind} asked the troll a riddle and tiptoed by while it scratched its head.",
        "a round cheese",
        "The {kind} rolled the round cheese down the bank, and the troll ran after it.",
        "told the troll that its supper was burning, and {N} slipped by",
    ),
    "a missing signpost": Obstacle(
        "the road split into seven, and the signpost had blown away",
        "The {kind} looked for fresh wheel tracks and followed them.",
        "a folded map",
        "The {kind} spread out the folded map, turned it twice, and saw the right way.",
        "pointed {N} to the third road, the one with daisies on both sides",
    ),
    "a wild storm": Obstacle(
        "a wild storm broke, and the wind bent the poplars to the ground",
        "The {kind} crawled under a ledge and told {himself} jokes until the storm was over.",
        "an oilskin coat",
        "The {kind} buttoned up the oilskin coat, leaned into the storm, and went on.",
        "led {N} to a hollow log, where they sat snugly until the storm had passed",
    ),
    "a high wall": Obstacle(
        "a stone wall crossed the road, higher than any house",
        "The {kind} piled up the loose stones until they made a staircase.",
        "a light ladder",
        "The {kind} set the light ladder against the wall and was over in no time.",
        "knew of a little door in the wall and knocked on it for {N}",
    ),
    "a wide ditch": Obstacle(
        "a ditch had been cut through the road, too wide for any jump",
        "The {kind} bent down a young willow, held on, and let it swing {him} over.",
        "a sturdy beam",
        "The {kind} pushed the sturdy beam over the ditch and balanced along it.",
        "showed {N} where the sides of the ditch had crumbled into a ramp",
    ),
    "a flock of sheep": Obstacle(
        "two hundred sheep filled the road from hedge to hedge",
        "The {kind} called like a shepherd, and the sheep turned and trotted into a field.",
        "a sack of oats",
        "The {kind} poured the sack of oats beside the road, and the sheep crowded around it.",
        "had a word with the oldest sheep, and they all made room for {N}",
    ),
    "a giant web": Obstacle(
        "a spider had spun a web across the path, as big as a sail",
        "The {kind} made the spider giggle until it drew the web aside like a curtain.",
        "a straw broom",
        "The {kind} rolled the web up on the straw broom and begged the spider's pardon.",
        "knew the spider by name, and it let {N} pass below the web",
    ),
    "an overturned cart": Obstacle(
        "a cart had overturned in a narrow lane and blocked it with barrels",
        "The {kind} rolled the barrels away, the smallest first, and squeezed by.",
        "an iron bar",
        "The {kind} pushed the iron bar under the cart and heaved until it stood on its wheels.",
        "fetched all its cousins, and together with {N} they set the cart upright",
    ),
    "a rockslide": Obstacle(
        "half of the slope had come down and buried the road in rubble",
        "The {kind} pulled out one small stone, and the rest of the rubble slid away by itself.",
        "a squeaky wheelbarrow",
        "The {kind} carried off the rubble, load by load, in the squeaky wheelbarrow.",
        "led {N} up to a ledge that ran safely above the rubble",
    ),
    "a toll keeper": Obstacle(
        "a toll keeper held out his palm, and {N} had no money",
        "The {kind} swept the keeper's yard instead, and he called it a fair price.",
        "a needle and thread",
        "The {kind} mended the keeper's torn sleeve with the needle and thread, and that paid the toll.",
        "whispered to the keeper, who blushed and waved {N} through",
    ),
    "a sleeping dragon": Obstacle(
        "a dragon lay asleep across the road, with smoke curling from its nostrils",
        "The {kind} breathed in time with the dragon and tiptoed past its tail.",
        "a peacock feather",
        "The {kind} tickled the dragon with the peacock feather, and it sneezed and rolled over.",
        "hummed a lullaby so deep that the dragon never noticed {N}",
    ),
    "a lost ferryman": Obstacle(
        "the ferryman was gone, and his boat lay empty by the wide water",
        "The {kind} pushed off at the bend, where the current carries every boat across.",
        "an ash oar",
        "The {kind} climbed into the boat and rowed it across with the ash oar.",
        "took the line in its mouth and towed {N} across in the boat",
    ),
    "an army of ants": Obstacle(
        "an army of ants was marching over the path, and there was no end to it",
        "The {kind} bent two stalks into an arch and stepped over the ants without hurting one.",
        "a bag of sugar",
        "The {kind} sprinkled the bag of sugar far off, and the ants wheeled to the left.",
        "spoke to the captain of the ants, and the whole army halted for {N}",
    ),
    "a deep pit": Obstacle(
        "the ground gave way, and {N} slid into a deep pit",
        "The {kind} kicked footholds into the clay and climbed out.",
        "a strong hook",
        "The {kind} caught a root with the strong hook and pulled {himself} out of the pit.",
        "let down a vine and hauled {N} out of the pit",
    ),
    "a burning sun": Obstacle(
        "the sun burned so fiercely that the tar melted and the puddles dried",
        "The {kind} wove a sunshade out of palm leaves and walked on in its shadow.",
        "a flask of lemonade",
        "The {kind} drank the flask of lemonade in small sips and walked on.",
        "led {N} from shade to shade, and then to a cool well",
    ),
    "a giant boulder": Obstacle(
        "a boulder as round as an egg had rolled into the road and stuck fast",
        "The {kind} scraped the sand away below the boulder, and it rolled off on its own.",
        "a crooked crowbar",
        "The {kind} leaned on the crooked crowbar, and the boulder rocked and rolled away.",
        "squeezed past the boulder on the left and pulled {N} after it",
    ),
    "a stern guard": Obstacle(
        "a guard with a spear barred the way and would not let strangers by",
        "The {kind} told the guard {his} name and asked for hers, and so they were no longer strangers.",
        "a jug of cider",
        "The {kind} offered the thirsty guard the jug of cider, and she lowered her spear.",
        "turned out to be the guard's oldest friend, and {N} was let through with a salute",
    ),
    "a grass fire": Obstacle(
        "dry grass was burning on both sides of the road, and smoke hid the sun",
        "The {kind} beat out the flames with a wet branch, one after another.",
        "a tin bucket",
        "The {kind} filled the tin bucket at a spring and put out the flames.",
        "led {N} down to the creek, and they waded around the smoke",
    ),
}
