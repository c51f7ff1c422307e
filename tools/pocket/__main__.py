"""`python -m tools.pocket`: make the pocket family, measure it, and write its card. `make pocket` does all three."""

import argparse
import json
import logging
from pathlib import Path

import torch

from bot.engine.devices import keep_memory
from tools.pocket import detector_training
from tools.pocket.card import card
from tools.pocket.contact_sheet import contact_sheet
from tools.pocket.detector import FOLDER
from tools.pocket.evaluation import evaluate, read_figures
from tools.pocket.family import GUIDANCE
from tools.pocket.stages import STAGES
from tools.pocket.training import pick_device
from tools.pocket.workshop import Workshop, adopt, build

ROOT = Path(__file__).parents[2]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    names = [stage.name for stage in STAGES]
    made = argparse.ArgumentParser(prog="python -m tools.pocket", description=__doc__)
    made.add_argument(
        "--work", type=Path, default=ROOT / "build" / "pocket", help="where trainings are kept and resumed"
    )
    made.add_argument("--models", type=Path, default=ROOT / "models", help="where finished models go")
    made.add_argument("--cpu", action="store_true", help="do without the GPU")
    does = made.add_subparsers(dest="does", required=True)
    everything = does.add_parser("all", help="build, evaluate and card")
    building = does.add_parser("build", help="train what is not trained yet; stops and goes on at any time")
    for each in (everything, building):
        each.add_argument("--share", type=float, default=1.0, help="train for this share of the usual time")
        each.add_argument(
            "--for", dest="only", nargs="+", choices=names, metavar="STAGE", help=f"of {', '.join(names)}"
        )
    measuring = does.add_parser("evaluate", help="measure what is made and not measured yet")
    measuring.add_argument("--for", dest="only", nargs="+", choices=names, metavar="STAGE", help="only these")
    does.add_parser(
        "adopt", help="go on from the models that are here, as a fresh clone has them, instead of from nothing"
    )
    does.add_parser("card", help="write models/pocket/README.md and its contact sheet")
    does.add_parser("detector", help="train the detector anew; published figures are of the one that is here")
    return made


def write_card(shop: Workshop) -> None:
    """Write the card, its figures as JSON, and the contact sheet beside the pipeline."""
    figures = read_figures(shop.work)
    kept = shop.pocket / "figures.json"
    if kept.exists():  # what was made elsewhere stays known
        figures = {**json.loads(kept.read_text()), **figures}
    contact_sheet(shop).save(shop.pocket / "contact-sheet.png", optimize=True)
    kept.write_text(json.dumps(figures, indent=1) + "\n")
    (shop.pocket / "README.md").write_text(card(shop.models, figures, size="128×128", guidance=GUIDANCE))


def main() -> None:
    """Do what the command line says."""
    given = parser().parse_args()
    keep_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if given.does == "detector":
        detector_training.build(FOLDER)
        return
    shop = Workshop(given.work, given.models, torch.device("cpu") if given.cpu else pick_device())
    if given.does == "adopt":
        adopt(shop)
    if given.does in ("all", "build"):
        build(shop, STAGES, share=given.share, only=given.only)
    if given.does in ("all", "evaluate"):
        evaluate(shop, only=given.only)
    if given.does in ("all", "card"):
        write_card(shop)


if __name__ == "__main__":
    main()
