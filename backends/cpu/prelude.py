"""The few helpers an emitted file carries, each only where a kernel needs it."""

HEAD = '''
class Memory:
    """The arena: one block of bytes, of which every array is a view."""

    def __init__(self):
        block = np.zeros(ARENA_BYTES + 64, np.uint8)
        start = -block.ctypes.data % 64
        self.bytes = block[start : start + ARENA_BYTES]
        self.used = 0

    def view(self, dtype, offset, shape):
        size = math.prod(shape) * np.dtype(dtype).itemsize
        self.used = max(self.used, offset + size)
        return self.bytes[offset : offset + size].view(dtype).reshape(shape)

    def f32(self, offset, *shape):
        return self.view(np.float32, offset, shape)

    def f64(self, offset, *shape):
        return self.view(np.float64, offset, shape)

    def i64(self, offset, *shape):
        return self.view(np.int64, offset, shape)

    def i32(self, offset, *shape):
        return self.view(np.int32, offset, shape)

    def u8(self, offset, *shape):
        return self.view(np.uint8, offset, shape)

    def bool(self, offset, *shape):
        return self.view(np.bool_, offset, shape)


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

TILES = '''
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
        borders += [windows[:, phase, :h0], windows[:, phase, h1:]]
        for k in range(kw):
            for part in range(parts):
                start = part * stride + k * dilation - left
                j0, j1 = span(start, step, cols, x.shape[1])
                inside = windows[:, phase, h0:h1, k, :, part]
                borders += [inside[..., :j0, :], inside[..., j1:, :]]
                if j1 > j0:
                    at = start + j0 * step
                    source = rows[:, at : at + step * (j1 - j0) : step]
                    copies.append((inside[..., j0:j1, :], source.transpose(2, 0, 3, 1, 4)))
    return [pair for pair in copies if pair[0].size], [b for b in borders if b.size]


def slabs(weights, windows, row, kh):
    """For each group: its weights, the im2col matrix at a padded row, its filters."""
    groups, phases = windows.shape[:2]
    filters = weights.shape[1] // groups
    for group in range(groups):
        first = row // phases
        slab = windows[group, row % phases, first : first + kh]
        k = slice(group * filters, (group + 1) * filters)
        yield weights[:, k].T, slab.reshape(weights.shape[0], -1), k
'''

TAPS = '''
def taps(rows, cols):
    """Each tap's number, the inputs it reads, and the windows that have it inside.

    rows and cols are (input size, windows, kernel, stride, padding before).
    """
    places = []
    for size, windows, kernel, stride, before in (rows, cols):
        places.append([])
        for k in range(kernel):
            o0, o1 = span(k - before, stride, windows, size)
            at = o0 * stride + k - before
            places[-1].append((slice(at, at + stride * (o1 - o0), stride), slice(o0, o1)))
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
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
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

PRELUDES: dict[str, tuple[str, ...]] = {
    "prelude_share": (),
    "prelude_tiles": (SPAN, TILES),
    "prelude_taps": (SPAN, TAPS),
    "prelude_philox": (PHILOX,),
}
"""The helpers behind each emitter's ``requires``, beyond ``HEAD``."""

TAIL = '''
class Program:
    """Runs the kernels in order, each on all workers, over one arena."""

    def __init__(self):
        self.memory = Memory()
        self.team = ThreadPoolExecutor(THREADS)
        self.phases = {}

    def array(self, name, n=BATCH):
        """An input, parameter or output for n images, batch first, as a view."""
        dtype, offset, order, shape = ARRAYS[name]
        bound = [n if size is None else size for size in shape]
        stored = self.memory.view(dtype, offset, [bound[axis] for axis in order])
        return stored.transpose([order.index(axis) for axis in range(len(order))])

    def bind(self, n):
        """All phases of all kernels for n images: a list of functions for each."""
        if not 1 <= n <= BATCH:
            raise ValueError(f"this program runs 1 to {BATCH} images, not {n}")
        phases = []
        for kernel in KERNELS:
            workers = [kernel(self.memory, n, t) for t in range(THREADS)]
            for phase in zip_longest(*workers):
                phases.append([run for run in phase if run is not None])
        return phases

    def run(self, n=BATCH):
        """One step on the n images in the input arrays."""
        if n not in self.phases:
            self.phases[n] = self.bind(n)
        for mine, *others in self.phases[n]:
            waiting = [self.team.submit(run) for run in others]
            mine()
            for future in waiting:
                future.result()


if __name__ == "__main__":
    program, random = Program(), np.random.default_rng(0)
    for name, (dtype, _, _, _) in ARRAYS.items():
        if dtype == "float32":
            array = program.array(name)
            array[...] = 0.05 * random.standard_normal(array.shape)
    for step in range(5):
        start = time.perf_counter()
        program.run()
        print(f"step {step}: {1e3 * (time.perf_counter() - start):.1f} ms")
'''
