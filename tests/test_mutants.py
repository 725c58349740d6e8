"""Mutants of the mathematics: each changes one line of a copy of the library, and has to die.

    python -m pytest tests/test_mutants.py -m slow

A mutant dies when one of the tests that should notice it fails. Tests that cannot fail, and lines
that no test looks at, would let it live. Where the line to change is no longer found exactly once,
its mutant has to be written anew: it fails, too.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import REPOSITORY

SOURCE = Path("src/robust_stitching")
TIME = 900  # seconds that the tests of one mutant may take


class Mutant(NamedTuple):
    """What is changed where, and the arguments of pytest for what should notice."""

    name: str
    file: str
    line: str
    changed: str
    noticed_by: str


APGD = "tests/test_apgd.py"
MUTANTS = [
    # Attacks
    Mutant(
        *("APGD checks later", "attacks/apgd.py"),
        *("max(int(0.06 * steps), 1)", "max(int(0.08 * steps), 1)", APGD),
    ),
    Mutant(
        *("APGD's checks move together slower", "attacks/apgd.py"),
        *("max(int(0.03 * steps), 1)", "max(int(0.02 * steps), 1)", APGD),
    ),
    Mutant(
        *("APGD is stuck whatever it did before", "attacks/apgd.py"),
        *('stuck = ~state["halved_then"] & (', "stuck = (", APGD),
    ),
    Mutant(
        *("APGD starts again without the best gradient", "attacks/apgd.py"),
        *('torch.where(back, state["best_gradient"], gradient)', "gradient", APGD),
    ),
    Mutant(
        *("APGD counts the first step of cross-entropy as none", "attacks/losses.py"),
        *("return -math.inf if loss is cross_entropy else 0.0", "return 0.0", APGD),
    ),
    Mutant(
        *("cross-entropy loses its gradient", "attacks/losses.py"),
        *("        return u\n", "        return F.softplus(u)\n", "tests/test_losses.py -k keep"),
    ),
    Mutant(
        *("divergence loses its gradient", "attacks/losses.py"),
        "    return value + (rise - rise.detach())\n",
        "    return F.kl_div(choices.log_softmax(-1), targets, reduction='none').sum((1, -1))\n",
        "tests/test_losses.py -k divergence",
    ),
    Mutant(
        *("the nearest wrong class is the right one", "attacks/losses.py"),
        *("ordered[:, 1].where(right, ordered[:, 0])", "ordered[:, 1]"),
        "tests/test_losses.py -k formulas",
    ),
    Mutant(
        *("a NaN in the logits fools", "attacks/loop.py"),
        "    return ~are_right(logits, labels) & sound.view(-1, *[1] * (labels.ndim - 1))\n",
        "    return ~are_right(logits, labels)\n",
        "tests/test_attacks.py -k finite",
    ),
    Mutant(
        *("l2 attacks leave the ball", "attacks/threat.py"),
        *("(self.epsilon / (_length(change) + TINY)).clamp(max=1)", "1"),
        "tests/test_attacks.py -k ball",
    ),
    Mutant(
        *("every block has the same starts", "attacks/draws.py"),
        *("generator_for(*seeds, number)", "generator_for(*seeds)", "tests/test_draws.py"),
    ),
    Mutant(
        *("every attack has the same starts", "evaluation/robustness.py"),
        *("start + rows, seed, name)", "start + rows, seed)", "tests/test_draws.py"),
    ),
    Mutant(
        *("every restart has the same starts", "evaluation/suites.py"),
        *("*seeds, restart)", "*seeds, 0)", "tests/test_draws.py tests/test_tiers.py"),
    ),
    Mutant(
        *("the worst case is the smallest accuracy", "evaluation/known.py"),
        "names if attack == WORST else [attack])",
        "[max(names, key=lambda n: (self.steps[n] >= 0).sum())] if attack == WORST else [attack])",
        "tests/test_tiers.py -k worst_case",
    ),
    Mutant(
        *("what is left is everything", "evaluation/robustness.py"),
        *("right & ~fooled if attack.on_what_is_left", "right if attack.on_what_is_left"),
        "tests/test_tiers.py -k left",
    ),
    Mutant(
        *("Square keeps what is worse", "attacks/square.py"),
        *("better = loss > self.best_loss\n", "better = loss < self.best_loss\n"),
        "tests/test_square.py -k best",
    ),
    Mutant(
        *("a longer way is called usual", "attacks/pgd.py"),
        *("USUAL_WAY = 2.5", "USUAL_WAY = 2.0", "tests/test_steps.py tests/test_robustness.py"),
    ),
    # Training
    Mutant(
        *("TRADES weighs its term by classes", "training/adversarial.py"),
        "self.adversary.beta * gap / labels.numel()",
        "self.adversary.beta * gap / logits.numel()",
        "tests/test_objectives.py -k one_step",
    ),
    Mutant(
        *("TRADES does not learn from clean images", "training/adversarial.py"),
        "choices_of(logits[:k], labels[:k]).log_softmax",
        "choices_of(logits[:k].detach(), labels[:k]).log_softmax",
        "tests/test_objectives.py -k one_step",
    ),
    Mutant(
        *("the learning rate falls in quarters", "training/optimisation.py"),
        *("0.1 ** (3 * iteration // iterations)", "0.1 ** (4 * iteration // iterations)"),
        "tests/test_training.py -k rate",
    ),
    # Similarity
    Mutant(
        *("HSIC is not centred", "similarity/gram.py"),
        *("2 / self.n * self.rows @ self.rows.T", "1 / self.n * self.rows @ self.rows.T"),
        "tests/test_similarity.py -k cka",
    ),
    Mutant(
        *("unbiased HSIC is biased", "similarity/gram.py"),
        *("2 / (n - 2) * rows @ rows.T", "2 / (n - 1) * rows @ rows.T"),
        "tests/test_measures.py -k cka",
    ),
    Mutant(
        *("moments forget that means move", "similarity/moments.py"),
        *("self.n * m / total", "0 * m / total"),
        "tests/test_similarity.py -k moments",
    ),
    Mutant(
        *("a value is no permutation of itself", "similarity/null.py"),
        *("p = (1 + reached.sum(dim=0))", "p = (reached.sum(dim=0))", "tests/test_null.py -k hand"),
    ),
    Mutant(
        *("blocks that are left out are taken for independent", "similarity/jackknife.py"),
        *("(count - 1) / count * squares", "squares / (count - 1)"),
        "tests/test_null.py -k jackknife",
    ),
    Mutant(
        *("images of side 2 are permuted on one side of their matrix", "similarity/stacks.py"),
        *("order[start : start + TILE], order[", "self.images[start : start + TILE], order["),
        "tests/test_null.py -k a_permutation",
    ),
    Mutant(
        *("least squares has no intercept", "similarity/moments.py"),
        *("self.mean_y - weight @ self.mean_x", "self.mean_y"),
        "tests/test_similarity.py -k least_squares",
    ),
    Mutant(
        *("an image is its own neighbour", "similarity/measures/neighbours.py"),
        *("alike.diagonal(offset=start).fill_(-torch.inf)", "pass"),
        "tests/test_measures.py -k neighbours",
    ),
]  # fmt: skip


@pytest.fixture
def copied(tmp_path):
    """A copy of the library, with a way to run tests of ours on it."""
    shutil.copytree(REPOSITORY / "src", tmp_path / "src")
    (tmp_path / "archive").symlink_to(REPOSITORY / "archive")
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)  # else it would be no clone

    def tests(arguments):
        paths = f"pythonpath={tmp_path / 'src'} {REPOSITORY / 'tests'}"
        command = [sys.executable, "-m", "pytest", *arguments.split(), "-x", "-n", "0", "-o", paths]
        command += ["-p", "no:cacheprovider", "--rootdir", str(REPOSITORY)]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=TIME)

    return tmp_path, tests


@pytest.mark.slow
def test_an_unchanged_copy_lives(copied):
    """Else every mutant would die of being a copy. It is the copy that is tested."""
    folder, tests = copied
    noticed_by = "tests/test_losses.py tests/test_draws.py tests/test_tiers.py"
    run = tests(noticed_by)
    assert run.returncode == 0, run.stdout[-3000:]
    (folder / SOURCE / "attacks" / "losses.py").write_text("raise ImportError('the copy')\n")
    run = tests(noticed_by)  # the error comes from conftest.py or from a test file
    assert run.returncode > 0 and "the copy" in run.stdout + run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_mutant_dies(mutant, copied):
    folder, tests = copied
    path = folder / SOURCE / mutant.file
    text = path.read_text()
    found = text.count(mutant.line)
    assert found == 1, f"{mutant.file} has {mutant.line!r} {found} times: write the mutant anew"
    path.write_text(text.replace(mutant.line, mutant.changed))
    compile(path.read_text(), path, "exec")
    run = tests(mutant.noticed_by)
    assert run.returncode == 1, f"{mutant.noticed_by} left with {run.returncode}:\n{run.stdout}"


def test_every_line_to_change_is_there_once():
    """What the slow run would find out after minutes."""
    for mutant in MUTANTS:
        assert (REPOSITORY / SOURCE / mutant.file).read_text().count(mutant.line) == 1, mutant.name
        assert mutant.line not in mutant.changed or mutant.line != mutant.changed
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 20
