"""Advice on a plan: settings that are probably wrong, what limits the speed, and what would speed up the run."""

from unimol_scale.common.units import duration
from unimol_scale.engine.planning.plan import Plan

# More passes over the data than this are probably not intended.
MANY_EPOCHS = 100


def warnings_of(plan: Plan) -> list[str]:
    """Return what is probably unintended."""
    found = []
    if plan.fit.fits is False:
        found.append("This run does not fit in the memory of a rank; see the memory section for what would fit.")
    epochs, molecules = plan.steps.epochs, plan.data.molecules
    if epochs is not None and molecules is not None and epochs > MANY_EPOCHS:
        found.append(
            f"This is {epochs:,.0f} epochs: each of the {molecules:,} molecules would be seen {epochs:,.0f} times. "
            "Build a larger store or lower train.steps."
        )
    return found


def assumptions_of(plan: Plan) -> list[str]:
    """Return what was assumed for lack of information."""
    if plan.data.path is not None:
        return []
    sizes = f"{plan.data.smallest} to {plan.data.largest} atoms, {plan.data.mean_atoms:.0f} on average"
    return [f"No store was read: molecules are assumed to have {sizes}."]


def advice_on(plan: Plan) -> list[str]:
    """Return sentences on what limits the run and what would speed it up."""
    sentences = [] if plan.fit.fits is False else [_bound(plan)]
    option = plan.stages[plan.recommended_stage]
    if plan.recommended_stage != plan.zero_stage:
        days = duration(option.seconds_per_step * plan.steps.steps)
        max_pairs = f"data.max_pairs={option.max_pairs}"
        file = f" and zero.config=configs/deepspeed/zero{option.stage}.json" if plan.zero_config else ""
        sentences.append(f"Use zero.stage={option.stage}{file}: with {max_pairs} it fits, and the run takes {days}.")
    largest = plan.fit.max_pairs or 0
    if plan.target.is_gpu and not plan.max_pairs_chosen and plan.steps.micro_batches > 1 and largest > plan.max_pairs:
        sentences.append(f"Set data.max_pairs={largest}, or leave it out: fewer, larger micro-batches fit in memory.")
    if plan.fewest_ranks < plan.world_size:
        then = "Then" if plan.recommended_stage != plan.zero_stage else "Here"
        fewer = "1 GPU" if plan.fewest_ranks == 1 else f"{plan.fewest_ranks} GPUs"
        sentences.append(f"{then} {fewer} would be about as fast as {plan.world_size}.")
    return sentences


def _bound(plan: Plan) -> str:
    time, steps = plan.time, plan.steps
    if not plan.target.is_gpu:
        return {
            "compute": "Matrix products take most of the time.",
            "host": "Most of the time goes into starting the model's many small operations, not into arithmetic.",
        }[time.bound]
    held = f"{steps.batch / plan.world_size / steps.micro_batches:,.0f}"
    each = f"{held} molecule{'' if held == '1' else 's'} per micro-batch"
    if steps.micro_batches <= 1:
        remedy = "Use a larger batch, or fewer GPUs."
    elif plan.max_pairs_chosen:  # micro-batches are already as large as possible
        remedy = "Use more GPUs, or GPUs with more memory."
    else:
        remedy = "Use fewer, larger micro-batches."
    return {
        "host": f"Kernel launches limit this run: with {each} the GPU is idle "
        f"{1 - time.device / time.seconds:.0%} of the time. {remedy}",
        "network": f"The network limits this run. {remedy} If it is faster than assumed, give its speed with "
        "--network.",
        "memory traffic": "Memory traffic limits this run: kernels wait for the GPU's memory. More GPUs help.",
        "compute": "Matrix products limit this run, as they should. More GPUs help.",
    }[time.bound]
