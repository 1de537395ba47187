"""torchgfn 2.4.1 on a tree: run by benchmarks/gflownet.py with the interpreter that has torchgfn; imports no luthier.

    python benchmarks/gflownet_torchgfn.py '{"depth": 3, "width": 16, "rewards": "rewards.npy", "seed": 0, …}'

The environment is the same tree as luthier's: a state is the list of actions so far, one-hot for the network, and the
backward policy is 1. Prints one JSON line: CPU seconds, L1 distance and error of log Z after some of the rounds.
"""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Any

import numpy as np
import torch
from gfn.containers import ReplayBuffer
from gfn.env import DiscreteEnv
from gfn.estimators import DiscretePolicyEstimator
from gfn.gflownet import TBGFlowNet
from gfn.preprocessors import Preprocessor
from gfn.samplers import Sampler
from gfn.states import DiscreteStates
from gfn.utils.modules import MLP

LOOKS = 40  # how often the distance is computed during a run; its time is not counted


class Tree(DiscreteEnv):
    """Sequences of ``depth`` actions out of ``width``, then the exit."""

    def __init__(self, depth: int, width: int, log_rewards: torch.Tensor) -> None:
        self.depth, self.width, self.log_rewards = depth, width, log_rewards
        self.powers = width ** torch.arange(depth - 1, -1, -1)
        super().__init__(width + 1, torch.full((depth,), -1), (depth,), sf=torch.full((depth,), -2))

    def make_states_class(self) -> type[DiscreteStates]:
        env = self

        class TreeStates(DiscreteStates):
            state_shape, s0, sf, n_actions = env.state_shape, env.s0, env.sf, env.n_actions
            make_random_states = env.make_random_states

            def _compute_forward_masks(self) -> torch.Tensor:
                done = (self.tensor >= 0).all(dim=-1, keepdim=True)
                return torch.cat([(~done).expand(*done.shape[:-1], env.width), done], dim=-1)

            def _compute_backward_masks(self) -> torch.Tensor:
                last = self.tensor.gather(-1, ((self.tensor >= 0).sum(-1, keepdim=True) - 1).clamp(min=0))
                return torch.arange(env.width) == last

        return TreeStates

    def step(self, states: Any, actions: Any) -> Any:
        place = (states.tensor >= 0).sum(-1, keepdim=True).clamp(max=self.depth - 1)
        return self.States(states.tensor.scatter(-1, place, actions.tensor))

    def backward_step(self, states: Any, actions: Any) -> Any:
        place = ((states.tensor >= 0).sum(-1, keepdim=True) - 1).clamp(min=0)
        return self.States(states.tensor.scatter(-1, place, -1))

    def log_reward(self, states: Any) -> torch.Tensor:
        return self.log_rewards[(states.tensor * self.powers).sum(-1)]


class OneHot(Preprocessor):
    """Each action so far one-hot; zeros for those to come."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__(output_dim=depth * width)
        self.width = width

    def preprocess(self, states: Any) -> torch.Tensor:
        return self.encode(states.tensor)

    def encode(self, actions: torch.Tensor) -> torch.Tensor:
        hot = torch.nn.functional.one_hot(actions.clamp(min=-1) + 1, self.width + 1)[..., 1:]
        return hot.float().flatten(-2)


def distribution(module: torch.nn.Module, encoder: OneHot, depth: int, width: int) -> np.ndarray:
    """The probability of every leaf, (width^depth,) in lexicographic order."""
    mass = torch.zeros(1, dtype=torch.float64)
    prefixes = torch.full((1, depth), -1)
    with torch.no_grad():
        for level in range(depth):
            steps = module(encoder.encode(prefixes))[:, :width].double().log_softmax(dim=1)
            mass = (mass[:, None] + steps).flatten()
            prefixes = prefixes.repeat_interleave(width, dim=0)
            prefixes[:, level] = torch.arange(width).repeat(len(prefixes) // width)
    return mass.exp().numpy()


def run(job: dict[str, Any]) -> dict[str, Any]:
    """One training; see benchmarks/gflownet.py for the settings."""
    torch.manual_seed(job["seed"])
    depth, width = job["depth"], job["width"]
    log_rewards = torch.from_numpy(np.load(job["rewards"]))
    log_z = float(log_rewards.double().logsumexp(0))
    target = (log_rewards.double() - log_z).exp().numpy()
    env, encoder = Tree(depth, width, log_rewards.float()), OneHot(depth, width)
    module = MLP(depth * width, env.n_actions, hidden_dim=128, n_hidden_layers=2)
    policy = DiscretePolicyEstimator(module, env.n_actions, preprocessor=encoder)
    guess = float(log_rewards.exp().mean().log()) + depth * math.log(width) if job["init_log_z"] else 0.0
    network = TBGFlowNet(pf=policy, pb=None, init_logZ=guess, constant_pb=True)
    sampler = Sampler(policy)
    optimizer = torch.optim.Adam(
        [{"params": module.parameters(), "lr": job["lr"]}, {"params": [network.logZ], "lr": job["log_z_lr"]}]
    )
    rounds = job["evaluations"] // job["batch"]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, rounds) if job["cosine"] else None
    buffer = ReplayBuffer(env, capacity=job["evaluations"])
    curve, spent = [], 0.0
    for number in range(rounds):
        begin = time.process_time()
        ways = sampler.sample_trajectories(env, n=job["batch"], save_logprobs=False, epsilon=job["epsilon"])
        if job["replay"]:
            buffer.add(ways)
        for update in range(1 + job["replay"]):
            if update:
                ways = buffer.sample(min(job["replay_batch"], len(buffer)))
            optimizer.zero_grad()
            loss = network.loss(env, ways, recalculate_all_logprobs=True)
            loss.backward()
            optimizer.step()
        if schedule is not None:
            schedule.step()
        spent += time.process_time() - begin
        if (number + 1) % max(rounds // LOOKS, 1) == 0 or number + 1 == rounds:
            found = distribution(module, encoder, depth, width)
            gap = float(network.logZ.detach()) - log_z
            curve.append({"cpu": spent, "l1": float(np.abs(found - target).sum()), "log_z": gap})
    return {"curve": curve}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(run(json.loads(sys.argv[1]))))
