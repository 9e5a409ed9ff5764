"""Parts of every emitted file: helper functions, and the class that runs the step."""

import re

WORD = """
    block = (element // 4).to(tl.uint32)
    low = tl.zeros_like(block) + (step & 0xFFFFFFFF).to(tl.uint32)
    high = tl.zeros_like(block) + (step >> 32).to(tl.uint32)
    of = tl.zeros_like(block) + tl.full((), stream, tl.uint32)
    a, b, c, d = tl.philox(seed, block, of, low, high)
    lane = element % 4
    word = tl.where(lane < 2, tl.where(lane == 0, a, b), tl.where(lane == 2, c, d))
""".strip("\n")
"""An element's random word."""

HELPERS = {
    "keeps": f'''
@triton.jit
def keeps(seed, step, stream, element, threshold):
    """Whether dropout keeps an element: its word of Philox 4x32-10 is small enough."""
{WORD}
    return word < tl.full((), threshold, tl.uint32)
''',
    "keeps_share": f'''
@triton.jit
def keeps_share(seed, step, stream, element, keep):
    """Whether dropout keeps an element: none for a share up to 0, all from 1 on."""
{WORD}
    share = tl.where(keep < 1.0, tl.where(keep > 0.0, keep, 0.0), 1.0)
    return word.to(tl.int64) < (share * 4294967296.0).to(tl.int64)
''',
    "exp": '''
@triton.jit
def exp(x):
    """As exact as its float32 allows: 2**k apart (Cody and Waite, 1980, chapter 6)."""
    x = tl.where(x < -105.0, -105.0, tl.where(x > 90.0, 90.0, x))
    k = tl.floor(x * 1.4426950408889634 + 0.5)
    r = tl.fma(k, -1.428606765330187e-06, tl.fma(k, -0.693145751953125, x))
    half = tl.floor(k * 0.5)  # 2**128 is too large, its halves are not
    return tl.exp2(r * 1.4426950408889634) * tl.exp2(half) * tl.exp2(k - half)
''',
    "tanh": '''
@triton.jit
def tanh(x):
    """A polynomial near zero, where the quotient loses digits (Cephes, tanhf)."""
    s = x * x
    p = (-5.70498872745e-3 * s + 2.06390887954e-2) * s - 5.37397155531e-2
    near = ((p * s + 1.33314422036e-1) * s - 3.33332819422e-1) * s * x + x
    e = exp(-2.0 * tl.abs(x))
    far = tl.div_rn(1.0 - e, 1.0 + e)
    return tl.where(tl.abs(x) < 0.625, near, tl.where(x < 0.0, -far, far))
''',
}
"""Functions that kernels call, by name; one may call those before it."""


def helpers_for(source: str) -> list[str]:
    """The functions that kernels call, and those that these call."""
    found: list[str] = []
    for name, text in reversed(HELPERS.items()):
        if any(re.search(rf"(?<![\w.]){name}\(", s) for s in (source, *found)):
            found.insert(0, text.strip("\n"))
    return found


RUNNER = '''
class Program:
    """The step, and the memory it works in."""

    def __init__(self, device="cuda"):
        """Zeroed memory on the device."""
        self.arena = torch.zeros(ARENA_BYTES, dtype=torch.uint8, device=device)
        self.images = BATCH
        self.at("!images").fill_(BATCH)

    def at(self, name):
        """What lies at a place, flat."""
        dtype, offset, count = PLACES[name]
        kind = getattr(torch, dtype)
        return self.arena[offset : offset + count * kind.itemsize].view(kind)

    def array(self, name, n=BATCH):
        """A live view of an input, parameter or output, the batch first."""
        place, shape = ARRAYS[name]
        bound = [n if size is None else size for size in shape]
        return self.at(place)[: torch.Size(bound).numel()].view(bound)

    def launch(self, number):
        """One launch of the step."""
        kernel, programs, pointers, warps, stages = LAUNCHES[number]
        kernel[(programs,)](*map(self.at, pointers), num_warps=warps, num_stages=stages)

    def run(self, n=BATCH):
        """One step on the first n images."""
        if n != self.images:
            self.at("!images").fill_(n)
            self.images = n
        for number in range(len(LAUNCHES)):
            self.launch(number)


if __name__ == "__main__":  # where there is no GPU, with TRITON_INTERPRET=1
    program = Program("cuda" if torch.cuda.is_available() else "cpu")
    for number in range(3):
        start = time.perf_counter()
        program.run()
        program.arena[:1].cpu()  # waits until all is done
        seconds = time.perf_counter() - start
        print(f"a step on {BATCH} images, in {len(LAUNCHES)} launches: {seconds:.4f} s")
'''

WORKSPACE = '''
    def workspace(self, size, alignment, stream):
        """Memory for descriptors, kept for graphs that point to it."""
        if not self.spare or self.spare[-1].numel() < size:
            self.spare.append(self.arena.new_empty(size))
        return self.spare[-1]

'''
"""What the runner needs where kernels make tensor descriptors."""


def runner(source: str, feeds: bool = False) -> str:
    """The class that runs the kernels in ``source``, fed or not."""
    text = RUNNER.strip("\n")
    if feeds:
        held = "        for name, number in FEEDS.items():\n"
        held += "            self.array(name).fill_(number)\n\n"
        text = text.replace("\n    def at(", f"{held}    def at(", 1)
    if "make_tensor_descriptor" not in source:
        return text
    filled = '        self.at("!images").fill_(BATCH)\n'
    launch = "        kernel, programs, pointers, warps, stages = LAUNCHES[number]\n"
    text = text.replace(filled, f"{filled}        self.spare = []\n", 1)
    text = text.replace("    def at(", f"{WORKSPACE.lstrip(chr(10))}    def at(", 1)
    return text.replace(
        launch, f"{launch}        triton.set_allocator(self.workspace)\n", 1
    )
