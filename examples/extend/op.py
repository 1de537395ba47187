"""Train a network with an op of its own, and find the same numbers in a stack and member by member."""

import torch

import luthier as lt


class Unit(torch.autograd.Function):
    """Scale each row to length 1."""

    @staticmethod
    def forward(x):
        length = x.square().sum(-1, keepdim=True).add(1e-6).sqrt()
        return x / length, length

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx, grad, _):
        unit, length = ctx.saved_tensors
        return (grad - unit * (unit * grad).sum(-1, keepdim=True)) / length

    @staticmethod
    def vmap(info, in_dims, x):
        return Unit.apply(x.movedim(in_dims[0], 0)), (0, 0)  # rows are the last axis: members go first


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = torch.nn.Linear(64, 16), torch.nn.Linear(16, 10)

    def forward(self, x):
        return self.outer(Unit.apply(self.inner(x.flatten(1)))[0])


task = lt.TorchTask(
    space=lt.Space(lr=lt.Float(0.01, 1.0, log=True), momentum=lt.Float(0.0, 0.9)),
    model=lambda config: Net(),
    data=lt.data.digits(),
    loss=lt.losses.cross_entropy,
)

if __name__ == "__main__":
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    exact = torch.autograd.gradcheck(lambda x: Unit.apply(x)[0], x)
    settings = {"trials": 6, "epochs": 2, "seed": 0, "progress": False}
    stack = lt.tune(task, **settings)
    alone = lt.tune(task, executor=lt.execute.Local(width=1), **settings)
    same = [a.metrics == b.metrics and a.config == b.config for a, b in zip(stack.trials, alone.trials, strict=True)]
    print("gradient right:", exact, "| in a stack:", "6 wide" in str(stack.execution), "| bit for bit:", all(same))
