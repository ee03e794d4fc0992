"""The end of a run: its report, then its model card, whose presence says that the run is finished."""

import shutil
from collections.abc import Callable

from hyperrule.errors import Interrupted
from hyperrule.reporting.model_card import write_card
from hyperrule.reporting.page import write_report
from hyperrule.run_folder import RunFolder
from hyperrule.support.progress import Reporter


def finish_run(run: RunFolder, reporter: Reporter, keep: Callable[[], None] = lambda: None) -> None:
    """`keep` puts into the folder what the report alone needs. A report that cannot be made does not cost the run.

    Raises RunError, with the run resumable, if the card cannot be written.
    """
    try:
        keep()
        write_report(run)
    except Interrupted:
        raise
    except Exception as error:  # whatever it is: hours of training must not depend on a page
        reporter.say(f"Warning: {run.report_file} could not be made ({' '.join(str(error).split())[:200]}).")
    write_card(run)
    shutil.rmtree(run.checkpoints, ignore_errors=True)  # only now: until the card is there, they are the run
