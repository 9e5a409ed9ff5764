"""The few helpers an emitted file carries, each only where a kernel needs it."""

import re

KINDS = {
    "f32": "np.float32",
    "f64": "np.float64",
    "i64": "np.int64",
    "i32": "np.int32",
    "u8": "np.uint8",
    "bool": "np.bool_",
}
"""Methods of the emitted Memory class and the dtypes they give."""

METHOD = "    {0} = partialmethod(view, {1})"

MEMORY = '''
class Memory:
    """The arena: one block of bytes, of which every array is a view."""

    def __init__(self):
        block = np.zeros(ARENA_BYTES + 64, np.uint8)
        start = -block.ctypes.data % 64
        self.bytes = block[start : start + ARENA_BYTES]
        self.used = 0

    def view(self, dtype, offset, *shape):
        size = math.prod(shape) * np.dtype(dtype).itemsize
        self.used = max(self.used, offset + size)
        return self.bytes[offset : offset + size].view(dtype).reshape(shape)

METHODS
'''

SHARE = '''
def share(count, t):
    """Worker t's part of count items: from, to."""
    return count * t // THREADS, count * (t + 1) // THREADS


def pieces(lo, hi, size):
    """(start, length) of consecutive pieces of at most size items."""
    return [(i, min(size, hi - i)) for i in range(lo, hi, size)]
'''

SPAN = '''
def span(start, step, count, size):
    """The k of 0 .. count for which start + k * step lies in 0 .. size: from, to."""
    first = min(max(0, -(start // step)), count)
    return first, max(first, min(count, (size - 1 - start) // step + 1))
'''

SHIFTS = '''
def shifts(x, windows, top, left, stride, dilation):
    """How the windows array is filled from x: (window, source) pairs, zero borders.

    x [h, w, c, m]; windows [group, phase, row, kw, c, part, j, m] holds kw copies of
    each padded row, shifted by one tap each; rows are grouped by phase (row modulo
    dilation), columns by their place within a pool window (part).
    """
    groups, phases, height, kw, c, parts, cols, m = windows.shape
    x, step = x.reshape(*x.shape[:2], groups, c, m), parts * stride
    copies, borders = [], []
    for phase in range(phases):
        h0, h1 = span(phase - top, phases, height, x.shape[0])
        row = phase + phases * h0 - top
        rows = x[row : row + phases * (h1 - h0) : phases] if h1 > h0 else x[:0]
        for k in range(kw):
            for part in range(parts):
                start = part * stride + k * dilation - left
                j0, j1 = span(start, step, cols, x.shape[1])
                inside = windows[:, phase, h0:h1, k, :, part]
                borders += [inside[..., :j0, :], inside[..., j1:, :]]
                if j1 > j0:
                    at = start + j0 * step
                    source = rows[:, at : at + step * (j1 - j0) : step]
                    source = source.transpose(2, 0, 3, 1, 4)
                    copies.append((inside[..., j0:j1, :], source))
    return [pair for pair in copies if pair[0].size], [b for b in borders if b.size]
'''

PATCHES = '''
def patches(x, shape, stride, pool, dilation):
    """A view of x [h, w, c] that holds each window: [q, e, row, col, kh, kw, c].

    Window (q, e) under each place of the pool, stride pixels apart, its taps dilation.
    """
    (a, b, channel), (sh, sw), (ph, pw), (dh, dw) = x.strides, stride, pool, dilation
    strides = sh * a, sw * b, ph * sh * a, pw * sw * b, dh * a, dw * b, channel
    return np.lib.stride_tricks.as_strided(x, shape, strides, writeable=False)
'''

PRODUCTS = '''
def products(weights, windows, z, first, rows, stride, kh, top, height):
    """For each output row and group: weights, im2col matrix, result, all as matrices.

    The matrix is a view: kh consecutive rows of the windows array but those outside
    the image (height rows from top on). z [..., filter, part, j, m] begins at first.
    """
    groups, phases = windows.shape[:2]
    z = z.reshape(-1, weights.shape[1], math.prod(z.shape[-3:]))
    taps = len(weights) // kh
    filters = weights.shape[1] // groups
    for row in range(rows):
        at = (first + row) * stride
        k0, k1 = span(at - top, phases, kh, height)
        for group in range(groups):
            k = slice(group * filters, (group + 1) * filters)
            slab = windows[group, at % phases, at // phases :][k0:k1]
            slab = slab.reshape((k1 - k0) * taps, z.shape[-1])
            yield weights[k0 * taps : k1 * taps, k].T, slab, z[row, k]
'''

TAP_PRODUCTS = '''
def tap_products(w, x, z, first, start, rows, cols):
    """The products whose sum is z, a convolution's rows from first on.

    Each is weights, input and place in z of one row of taps, for all columns of z with
    the same taps inside the image x [h, w, c, m], where these taps lie one after the
    other; and whether its place has no product yet. The row of taps start comes first.
    rows is (stride, dilation, padding before), cols without the dilation.
    """
    kh, kw, c, k = w.shape
    (step_h, dilation, top), (step_w, left) = rows, cols
    inside = [span(q * step_w - left, 1, kw, x.shape[1]) for q in range(z.shape[1])]
    strides = step_h * x.strides[0], step_w * x.strides[1], *x.strides[2:]
    for i in sorted(range(kh), key=start.__ne__):
        row = first * step_h + i * dilation - top
        r0, r1 = span(row, step_h, len(z), len(x))
        for j0, j1 in dict.fromkeys(inside) if r1 > r0 else ():
            q0 = inside.index((j0, j1))
            q1 = q0 + inside.count((j0, j1))
            source = x[row + r0 * step_h :, q0 * step_w + j0 - left :]
            shape = r1 - r0, q1 - q0, (j1 - j0) * c, x.shape[3]
            source = np.lib.stride_tricks.as_strided(source, shape, strides)
            weights = w[i, j0:j1].reshape(-1, k).T
            yield weights, source, (slice(r0, r1), slice(q0, q1)), i == start
'''

KRONECKER = '''
def kronecker_square(matrix):
    """What transforms rows and columns as matrix does rows, as one float32 matrix."""
    return np.kron(matrix, matrix).astype(np.float32)
'''

DFT = '''
def dft_matrices(rows, cols):
    """What makes frequencies of images and of filters, and outputs of them, in float32.

    rows and cols are (pixels, taps, outputs, stride, dilation, padding before, points,
    pool). An image has a matrix for its columns, one for the rows then that are real,
    and one for pairs of a real and an imaginary row. Outputs have the same, to be
    transposed, tap by tap of a pool window. Of two conjugate frequencies one is kept;
    first come those that are their own; filters have 2x2 blocks for the others.
    """
    sizes = rows[6], cols[6]
    lone = [[0, size // 2][: 2 - size % 2] for size in sizes]
    pairs = [range(1, (size + 1) // 2) for size in sizes]

    def angles(axis, frequencies, places):
        turns = np.multiply.outer(np.array(frequencies, np.float64), places)
        return 2 * np.pi / sizes[axis] * turns

    def waves(angles, *parts):
        """Each part (cosine or sine, factor) of each frequency."""
        made = [factor * function(angles) for function, factor in parts]
        return np.stack(made, axis=1).reshape(-1, angles.shape[1])

    def steps(places, pair):
        """Through columns, real rows, pairs of rows; a pair counts pair times."""
        down, across = (
            np.concatenate([
                waves(angles(axis, lone[axis], at), (np.cos, 1)),
                waves(angles(axis, pairs[axis], at), (np.cos, pair), (np.sin, -pair)),
            ])
            for axis, at in enumerate(places)
        )
        order = np.arange(len(lone[0]) * sizes[1]).reshape(-1, sizes[1])
        order = [*order[:, : len(lone[1])].flat, *order[:, len(lone[1]) :].flat]
        every = angles(1, range(sizes[1]), places[1])
        real, imaginary = ((np.cos, 1), (np.sin, -1)), ((np.sin, 1), (np.cos, 1))
        both = np.hstack([waves(every, *real), waves(every, *imaginary)])
        return down, np.kron(np.eye(len(lone[0])), across)[order], both

    def of_taps(frequencies, *parts):
        down, across = np.reshape(frequencies, (-1, 2)).T
        down, across = angles(0, down, taps[0]), angles(1, across, taps[1])
        whole = down[:, :, None] + across[:, None]
        return waves(whole.reshape(len(whole), -1), *parts)

    pixels, taps, outputs = [], [], []
    for size, kernel, made, stride, dilation, before, _, pool in (rows, cols):
        pixels.append(np.arange(size))
        taps.append(dilation * np.arange(kernel))
        outputs.append((stride * np.arange(made) - before).reshape(-1, pool).T.ravel())
    some = [(i, j) for i in lone[0] for j in lone[1]]
    others = [(i, j) for i in lone[0] for j in pairs[1]]
    others += [(i, j) for i in pairs[0] for j in range(sizes[1])]
    block = (np.cos, 1), (np.sin, -1), (np.sin, 1), (np.cos, 1)
    filters = np.concatenate([of_taps(some, block[0]), of_taps(others, *block)])
    scales = sizes[0], sizes[1], sizes[1]
    back = [step / size for step, size in zip(steps(outputs, 2), scales)]
    forward, back = (
        [step.astype(np.float32) for step in made] for made in (steps(pixels, 1), back)
    )
    return forward, filters.astype(np.float32), back


def frequencies(image, steps, half, made):
    """The products that make frequencies of an image: matrix, operand, result.

    Of its columns, in half, then of real rows and of pairs of rows. From the last to
    the first, with transposed matrices from results to operands, they do the adjoint.
    """
    down, real, both = steps
    half, made = half.reshape(len(down), -1), made.reshape(len(made), -1)
    rows, (some, given) = half.reshape(-1, made.shape[1]), real.shape
    pairs = rows[given:].reshape(-1, both.shape[1], made.shape[1])
    return [
        (down, image.reshape(down.shape[1], -1), half),
        (real, rows[:given], made[:some]),
        (both, pairs, made[some:].reshape(-1, len(both), made.shape[1])),
    ]
'''

FILL = '''
def fill_windows(copies, borders):
    """Fill the windows array."""
    for border in borders:
        border.fill(0)
    for window, source in copies:
        copyto(window, source)
'''

FOLD = '''
def fold_windows(copies, _):
    """The adjoint of fill_windows: add each window to where it would be copied from."""
    for window, target in copies:
        add(target, window, out=target)
'''

POOL = '''
def pool(taps, best):
    """best = the maximum over the taps of each pool window."""
    maximum(taps[0], taps[1], out=best)
    for tap in taps[2:]:
        maximum(best, tap, out=best)
'''

POOL_ARGMAX = '''
def pool_argmax(taps, best, which, won):
    """best = the maximum over the taps, which = the number of the first to reach it."""
    greater(taps[1], taps[0], out=won)
    maximum(taps[0], taps[1], out=best)
    flags = won.view(np.uint8)
    copyto(which, flags)
    for number, tap in enumerate(taps[2:], 2):
        greater(tap, best, out=won)
        maximum(best, tap, out=best)
        multiply(flags, np.uint8(number), out=flags)
        maximum(which, flags, out=which)
'''

TOTAL = '''
def add_parts(t, out, parts):
    """Add up worker t's rows of all workers' parts, always in the same order."""
    rows = slice(*share(len(out), t))
    copyto(out[rows], parts[0][rows])
    for part in parts[1:]:
        add(out[rows], part[rows], out=out[rows])
'''

ADAM_SCALARS = '''
def adam_scalars(rate, step, beta1, beta2, epsilon, scaled_rate, scaled_epsilon):
    """Fold the bias corrections into two numbers (Kingma and Ba, 2015, section 2)."""
    count = int(step) + 1
    root = math.sqrt(1 - beta2**count)
    scaled_rate.fill(float(rate) * root / (1 - beta1**count))
    scaled_epsilon.fill(epsilon * root)
'''

TAPS = '''
def pool_taps(rows, cols):
    """Each tap's number, the inputs it reads, and the windows that have it inside.

    rows and cols are (input size, windows, kernel, stride, padding before).
    """
    places = []
    for size, windows, kernel, stride, before in (rows, cols):
        places.append([])
        for k in range(kernel):
            o0, o1 = span(k - before, stride, windows, size)
            at = o0 * stride + k - before
            inside = slice(at, at + stride * (o1 - o0), stride)
            places[-1].append((inside, slice(o0, o1)))
    for i, (x_rows, y_rows) in enumerate(places[0]):
        for j, (x_cols, y_cols) in enumerate(places[1]):
            if y_rows.start < y_rows.stop and y_cols.start < y_cols.stop:
                yield i * len(places[1]) + j, (x_rows, x_cols), (y_rows, y_cols)
'''

PHILOX = '''
def philox(lanes, first, stream, seed, step):
    """Random words for counter blocks first: Philox 4x32-10 (Salmon et al., 2011).

    lanes are six uint64 arrays; the words, below 2**32, end up in the first four.
    """
    low, shift, seed, step = np.uint64(0xFFFFFFFF), np.uint64(32), int(seed), int(step)
    c0, c1, c2, c3, p, q = lanes
    copyto(c0, first)
    c1.fill(stream)
    c2.fill(step & 0xFFFFFFFF)
    c3.fill(step >> 32 & 0xFFFFFFFF)
    key0, key1 = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    for _ in range(10):
        multiply(c0, np.uint64(0xD2511F53), out=p)
        multiply(c2, np.uint64(0xCD9E8D57), out=q)
        np.right_shift(q, shift, out=c0)
        np.bitwise_xor(c0, c1, out=c0)
        np.bitwise_xor(c0, np.uint64(key0), out=c0)
        np.bitwise_and(q, low, out=c1)
        np.right_shift(p, shift, out=c2)
        np.bitwise_xor(c2, c3, out=c2)
        np.bitwise_xor(c2, np.uint64(key1), out=c2)
        np.bitwise_and(p, low, out=c3)
        key0, key1 = key0 + 0x9E3779B9 & 0xFFFFFFFF, key1 + 0xBB67AE85 & 0xFFFFFFFF
'''

KEEP_LIMIT = '''
def keep_limit(keep, out):
    """The bound below which a word keeps its element: keep * 2**32, cut to a word."""
    share = float(keep)
    out[...] = int(max(share, 0.0) * 2.0**32) if share < 1 else 2**32
'''

HELPERS: dict[str, str] = {
    "span": SPAN,
    "shifts": SHIFTS,
    "patches": PATCHES,
    "products": PRODUCTS,
    "tap_products": TAP_PRODUCTS,
    "kronecker_square": KRONECKER,
    "dft_matrices": DFT,
    "fill_windows": FILL,
    "fold_windows": FOLD,
    "pool": POOL,
    "pool_argmax": POOL_ARGMAX,
    "add_parts": TOTAL,
    "adam_scalars": ADAM_SCALARS,
    "pool_taps": TAPS,
    "philox": PHILOX,
    "keep_limit": KEEP_LIMIT,
}
"""Every helper by the name it defines, callers after those they call."""

NEEDS = dict.fromkeys(("shifts", "products", "tap_products", "pool_taps"), "span")
"""Helpers that call another."""


def helpers_for(source: str) -> list[str]:
    """The texts of the helpers that ``source`` calls, in order."""
    called = {name for name in HELPERS if re.search(rf"\b{name}[(,]", source)}
    called |= {NEEDS[name] for name in called if name in NEEDS}
    return [text for name, text in HELPERS.items() if name in called]


def memory_for(source: str) -> str:
    """The arena's class with a method for each dtype that ``source`` asks for."""
    kinds = [kind for kind in KINDS if f"mem.{kind}(" in source]
    methods = "\n".join(METHOD.format(kind, KINDS[kind]) for kind in kinds)
    return MEMORY.replace("METHODS", methods)


TAIL = '''
class Program:
    """Runs the kernels in order, each on all workers, over one arena."""

    def __init__(self):
        self.memory = Memory()
        self.barrier = Barrier(THREADS)
        self.team = ThreadPoolExecutor(THREADS)
        self.steps = {}
ARRAY
    def bind(self, n, t):
        """Worker t's calls for a step on n images; all wait after each kernel."""
        if not 1 <= n <= BATCH:
            raise ValueError(f"this program runs 1 to {BATCH} images, not {n}")
        calls = [c for kernel in KERNELS for c in (*kernel(self.memory, n, t), BARRIER)]
        return [self.barrier.wait if step is BARRIER else step for step in calls]

    def run(self, n=BATCH):
        """One step on the n images in the input arrays."""
        if n not in self.steps:
            self.steps[n] = [self.bind(n, t) for t in range(THREADS)]
        waiting = [self.team.submit(self.work, calls) for calls in self.steps[n]]
        try:
            wait(waiting)
        finally:  # a step that has begun is finished, whatever interrupts the wait
            wait(waiting)
            self.barrier.reset()
        for future in waiting:
            future.result()

    def work(self, calls):
        """Make calls in order; if one fails, no worker is left waiting."""
        try:
            with np.errstate(all="ignore"):  # what is not finite shows in the loss
                for step in calls:
                    step()
        except BrokenBarrierError:
            return  # another worker failed, and tells why
        except BaseException:
            self.barrier.abort()
            raise
'''

ALONE = '''
class Program:
    """Runs the kernels in order over one arena."""

    def __init__(self):
        self.memory = Memory()
        self.steps = {}
ARRAY
    def bind(self, n):
        """The calls of a step on n images; one worker waits for nobody."""
        if not 1 <= n <= BATCH:
            raise ValueError(f"this program runs 1 to {BATCH} images, not {n}")
        calls = [c for kernel in KERNELS for c in kernel(self.memory, n, 0)]
        return [step for step in calls if step is not BARRIER]

    def run(self, n=BATCH):
        """One step on the n images in the input arrays."""
        if n not in self.steps:
            self.steps[n] = [self.bind(n)]
        with np.errstate(all="ignore"):  # what is not finite shows in the outputs
            for step in self.steps[n][0]:
                step()
'''

ARRAY = '''
    def array(self, name, n=BATCH):
        """An input, parameter or output for n images, batch first, as a view."""
        dtype, offset, order, shape = ARRAYS[name]
        bound = [n if size is None else size for size in shape]
        stored = self.memory.view(dtype, offset, *(bound[axis] for axis in order))
        return stored.transpose([order.index(axis) for axis in range(len(order))])
'''

MAIN = """

if __name__ == "__main__":
    for seconds in timeit.repeat(Program().run, number=1):
        print(f"a step on {BATCH} images: {1e3 * seconds:.1f} ms")
"""

FEED = """
        for name, number in FEEDS.items():
            self.array(name)[...] = number
"""


def tail(feeds: bool, alone: bool) -> str:
    """The class that runs the kernels; its inputs hold the numbers they are fed.

    If ``alone``, one worker makes all calls.
    """
    array = (FEED.rstrip("\n") if feeds else "").lstrip("\n")
    body = (ALONE if alone else TAIL).replace("ARRAY\n", f"{array}{ARRAY}\n", 1)
    return body + MAIN
