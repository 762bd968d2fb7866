"""Do two clocks agree?"""

from deployments.cli.doctor.verdict import Verdict, fail, ok, warn

NOTICED_S, TOO_FAR_S = 2.0, 60.0
REMEDY = "keep both with NTP (chrony, systemd-timesyncd)"


def agreement(whose: str, ahead_s: float, grain_s: float = 0.0) -> Verdict:
    """What it means that another clock is so far ahead; `grain_s` is how coarsely it was read."""
    off_s = max(0.0, abs(ahead_s) - grain_s)
    said = f"that of {whose} is {abs(ahead_s):.1f} s {'before' if ahead_s > 0 else 'behind'} ours"
    if off_s > TOO_FAR_S:
        return fail(f"{said}: files and signatures expire at the wrong time", REMEDY)
    if off_s > NOTICED_S:
        return warn(said, REMEDY)
    return ok(f"that of {whose} agrees")
