"""Functions that an emitted PyTorch file defines where it needs them."""

import re

HELPERS: dict[str, str] = {
    "nchw": '''
def nchw(x):
    """Images [n, h, w, c] as PyTorch counts their axes: a view."""
    return x.permute(0, 3, 1, 2)
''',
    "nhwc": '''
def nhwc(x):
    """Images [n, c, h, w] as the graph counts their axes: a view."""
    return x.permute(0, 2, 3, 1)
''',
    "batch_norm": '''
def batch_norm(x, gamma, beta, epsilon):
    """x normalized over all but its last axis; the mean and variance it had there."""
    x = x.movedim(-1, 1)
    y, mean, rstd = torch.native_batch_norm(
        x, gamma, beta, None, None, True, 0.0, epsilon
    )
    return y.movedim(1, -1), mean, rstd.pow(-2) - epsilon
''',
    "average": '''
def average(x, pads, window, strides):
    """The mean of each window of [n, c, h, w] over what is no padding."""
    inside = F.pad(torch.ones_like(x[:1, :1]), pads)
    counts = F.avg_pool2d(inside, window, strides, divisor_override=1)
    return F.avg_pool2d(F.pad(x, pads), window, strides, divisor_override=1) / counts
''',
    "below": '''
def below(threshold, seed, stream, step, shape):
    """Philox 4x32-10: whether each element's 32 random bits are below a threshold."""
    count = torch.Size(shape).numel()
    block = torch.arange(-(-count // 4), dtype=torch.int64, device=seed.device)
    low = 0xFFFFFFFF
    a, b = block, torch.full_like(block, stream)
    c, d = (step & low).expand_as(block), (step >> 32 & low).expand_as(block)
    k0, k1 = seed & low, seed >> 32 & low
    for _ in range(10):
        x, y = a * 0xD2511F53, c * 0xCD9E8D57  # the low 64 bits of the products
        a, b = (y >> 32 & low) ^ b ^ k0, y & low
        c, d = (x >> 32 & low) ^ d ^ k1, x & low
        k0, k1 = k0 + 0x9E3779B9 & low, k1 + 0xBB67AE85 & low
    words = torch.stack((a, b, c, d), 1).reshape(-1)[:count]
    return ~(words >= threshold).reshape(shape)  # a share of NaN keeps all
''',
}
"""Source by name, after those that it calls."""

PARAMETER = '''
def parameter(*shape, dtype=torch.float32, trained=True):
    """Zeros to be loaded; only what is trained receives a gradient."""
    return torch.nn.Parameter(torch.zeros(shape, dtype=dtype), requires_grad=trained)
'''

TAIL = '''
def main():
    """Time a forward pass on random images."""
    network = Network()
    arrays = [
        torch.rand([BATCH if d is None else d for d in shape]).to(dtype)
        for dtype, shape in INPUTS.values()
    ]
    with torch.inference_mode():
        seconds = timeit.repeat(lambda: network(*arrays), number=1, repeat=12)
    print(f"{1e3 * min(seconds[2:]):.3f} ms a pass of {BATCH} images")


if __name__ == "__main__":
    main()
'''


def helpers_for(source: str) -> list[str]:
    """The helpers that ``source`` calls, in the order of the table."""
    return [h for name, h in HELPERS.items() if re.search(rf"\b{name}\(", source)]
