"""What it costs to have many experts: to bring one into the bank, and to choose among them."""

from adaptive_moe.experiments import bases, choosing, loading
from adaptive_moe.experiments.figures import Figure, Findings
from adaptive_moe.experiments.plan import POCKET, Plan, Tell


def run(plan: Plan, tell: Tell) -> Findings:
    """Loading on every model of the plan; choosing with the pocket model's router."""
    found: list[Figure] = []
    for title in plan.bases:
        tell(f"{title}: loading experts")
        found += loading.figures(bases.load(title, plan.device), plan, title=title)
    if POCKET in plan.bases:
        found += choosing.figures(plan, tell)
    return Findings(tuple(found), {})
