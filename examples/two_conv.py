"""A network from its definition to a trained program, and a look at each step.

Run it with ``python examples/two_conv.py``. It trains one epoch on a slice of MNIST,
or of the stand-in digits where MNIST cannot be had.
"""

import convc as cc
from convc.runtime.evaluation import predict


def two_conv(image: cc.Tensor) -> cc.Tensor:
    """Logits f32[N,10] of images f32[N,28,28,1]."""
    x = cc.conv2d(image, 32, 5, padding="same", activation="relu", name="conv1")
    x = cc.max_pool2d(x, 2, name="pool1")
    x = cc.conv2d(x, 64, 5, padding="same", activation="relu", name="conv2")
    x = cc.max_pool2d(x, 2, name="pool2")
    x = cc.dense(cc.flatten(x), 1024, activation="relu", name="fc")
    x = cc.dropout(x, keep=0.75)
    return cc.dense(x, 10, name="logits")


def main() -> None:
    """Define, look, train, ask."""
    model = cc.Model(two_conv, image="f32[N,28,28,1]")
    print(model.summary())

    # Forward, loss, backward and optimizer are one graph, and it can be read.
    step = model.training_step(loss=cc.softmax_cross_entropy, optimizer=cc.Adam(1e-3))
    print("\nthe network as the compiler sees it:\n")
    print(step.stages(batch=128)[0].text)

    # The program is one Python source file that needs only NumPy.
    program = step.compile(backend="numpy", batch=128)
    print("the program that it becomes begins with:\n")
    print("\n".join(program.source.splitlines()[:20]))
    print(f"  … {len(program.source.splitlines())} lines in all\n")

    splits = cc.load_mnist()
    history = model.fit(
        splits.train.first(1280),
        validation=splits.test.first(200),
        epochs=1,
        batch=128,
        optimizer=cc.Adam(1e-3),
    )

    weights = history.program.parameters
    few = splits.test.images[:5]
    answer = predict(model, few, weights)
    print(f"\nfive test images show {splits.test.labels[:5].tolist()}")
    print(f"the network answers   {answer.classes.tolist()}")
    if splits.notice:
        print(f"notice: {splits.notice}")


if __name__ == "__main__":
    main()
