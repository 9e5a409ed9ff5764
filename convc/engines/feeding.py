"""Two Triton kernels around a training step: the next batch in, its record out.

``number`` counts the batches of the epoch on the device. ``take_batch`` reads it,
``keep_record`` advances it: one program, after all others of the step.
"""

import triton
import triton.language as tl


@triton.jit
def take_batch(
    number,
    order,
    pictures,
    answers,
    images,
    image,
    label,
    TOTAL: tl.constexpr,
    BATCH: tl.constexpr,
    ROW: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Copy the rows that ``order`` names next; a program copies a piece of one image.

    order: i32[TOTAL]; pictures: [TOTAL, ROW]; answers: [TOTAL]; image: [BATCH, ROW];
    label: [BATCH]; images: how many there are, fewer than BATCH at the epoch's end.
    """
    pieces: tl.constexpr = (ROW + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    at = program // pieces
    first = tl.load(number) * BATCH
    count = tl.maximum(tl.minimum(TOTAL - first, BATCH), 0)
    here = at < count
    row = tl.load(order + first + at, mask=here, other=0).to(tl.int64)
    lane = (program % pieces) * BLOCK + tl.arange(0, BLOCK)
    inside = lane < tl.where(here, ROW, 0)
    pixels = tl.load(pictures + row * ROW + lane, mask=inside, other=0.0)
    tl.store(image + at.to(tl.int64) * ROW + lane, pixels, mask=inside)
    leads = here & (program % pieces == 0)
    tl.store(label + at, tl.load(answers + row, mask=leads, other=0), mask=leads)
    tl.store(images, count, mask=program == 0)


@triton.jit
def keep_record(number, loss, correct, losses, corrects, COUNT: tl.constexpr) -> None:
    """Note a batch's loss and number of right answers, and go on to the next batch.

    losses, corrects: [COUNT], one for each batch of the epoch.
    """
    at = tl.load(number)
    tl.store(losses + at, tl.load(loss), mask=at < COUNT)
    tl.store(corrects + at, tl.load(correct), mask=at < COUNT)
    tl.store(number, at + 1)
