"""Sentences of very different lengths, made of a few hundred words, the same every time."""

from __future__ import annotations

import math
import random

FEWEST, MOST = 3, 120
_WORDS = """
a about above after again air all almost along also always among an and animal another answer any are around as ask at away
back be because been before began being below between big book both boy but by call came can car carry change children city
close come could country cut day did different do does done door down each early earth eat end enough even every example eye
face family far father feet few find first follow food for form found four from get girl give go good got great group grow
had hand hard has have he head hear help her here high him his home house how idea if important in into is it its just keep
kind know land large last later learn leave left letter life light like line list little live long look made make man many
may mean men might mile miss more most mother mountain move much music must my name near need never new next night no not
now number of off often old on once one only open or other our out over own page paper part people picture place plant play
point put question quick quite read really right river run said same saw say school sea second see seem sentence set she
should show side small so some something sometimes song soon sound spell stand start state still stop story study such take
talk tell than that the their them then there these they thing think this those thought three through time to together too
took tree try turn two under until up upon us use very walk want was watch water way we well went were what when where which
while white who why will with without word work world would write year you young your
""".split()  # noqa: SIM905


def sentences(count: int) -> list[str]:
    """Of 3 to 120 words; the logarithm of the length is uniform, so that short ones are common and long ones are there."""
    chance = random.Random(0)
    made = []
    for _ in range(count):
        words = round(math.exp(chance.uniform(math.log(FEWEST), math.log(MOST))))
        made.append(" ".join(chance.choices(_WORDS, k=words)) + ".")
    return made
