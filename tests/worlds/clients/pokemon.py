"""Pokémon battles on a local Showdown server, by poke-env: the newest policy plays a random player.

    python pokemon.py play --server ADDRESS:PORT --spool SPOOL --state STATE     deposit until SIGTERM
    python pokemon.py evaluate --server ADDRESS:PORT --state STATE               results against a random one

Actions are poke-env's own: 6 switches, 4 moves, and the 4 moves with each gimmick of the generation; its mask
says which are legal. A battle is one episode. The reward is the change of a battle's standing: health points
left, what has fainted and who has won, ours less the other side's, as poke-env's ``reward_computing_helper``
has it.
"""

import argparse
import asyncio
import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from poke_env import AccountConfiguration, ServerConfiguration
from poke_env.battle import Battle, Move, MoveCategory, Pokemon
from poke_env.environment import SinglesEnv
from poke_env.player import BattleOrder, Player, RandomPlayer

from experience import EpisodeWriter
from policies import Actor

FORMAT, GENERATION = "gen9randombattle", 9
ACTIONS = SinglesEnv.get_action_space_size(GENERATION)
SLOTS, MOVES = 6, 4
MOVE_FEATURES, SLOT_FEATURES, FIELD_FEATURES = 5, 4, 9
OBSERVATION = MOVES * MOVE_FEATURES + SLOTS * SLOT_FEATURES + FIELD_FEATURES
HP, FAINTED, VICTORY = 1.0, 1.0, 3.0  # a win is worth a quarter of a team: the rest leads there
LOGIN_S = 120  # a server that has just started keeps its first guests waiting
NEVER = "http://127.0.0.1:1/"  # guests have no password, so nobody is asked to authenticate

Policy = Callable[[np.ndarray, np.ndarray], tuple[int, float]]


class Bot(Player):
    """Plays by a policy; records what it does if it is given a writer.

    What the library cannot express as an action it decides itself; what comes of that counts for the step
    before.
    """

    def __init__(self, policy: Policy, *, writer: EpisodeWriter | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.policy, self.version, self._writer = policy, 0, writer
        self._chosen: dict[str, Any] | None = None
        self._standing = 0.0
        self.deposited = 0

    def choose_move(self, battle: Battle) -> BattleOrder:
        """Record what the last action gave, and choose the next one."""
        mask = np.array(SinglesEnv.get_action_mask(battle), np.bool_)
        if not mask.any():
            return self.choose_random_move(battle)
        self._settle(battle)
        obs = embed(battle)
        action, logp = self.policy(obs, mask)
        order = SinglesEnv.action_to_order(np.int64(action), battle)
        self._chosen = {"obs": obs, "action": action, "mask": mask, "logp": logp}
        return order

    def _battle_finished_callback(self, battle: Battle) -> None:
        self._settle(battle)
        if self._writer is not None:
            self._writer.end(embed(battle), terminated=True)
            self.deposited += 1
        self._standing = 0.0

    def _settle(self, battle: Battle) -> None:
        if self._chosen is not None and self._writer is not None:
            now = standing(battle)
            step = {"reward": now - self._standing, "policy_version": self.version}
            self._writer.step(**self._chosen, **step)
            self._standing = now
        self._chosen = None


def standing(battle: Battle) -> float:
    """How the battle stands, 0 at its beginning: health, what has fainted, who has won."""
    value = side_value(battle.team.values()) - side_value(battle.opponent_team.values())
    return value + (VICTORY if battle.won else -VICTORY if battle.lost else 0.0)


def side_value(team: Any) -> float:
    """Health points left, as fractions, less what has fainted; who was not seen yet is unharmed."""
    return sum(HP * (mon.current_hp_fraction - 1.0) - FAINTED * mon.fainted for mon in team)


def embed(battle: Battle) -> np.ndarray:
    """What the policy sees: our moves, our team, the field."""
    us, them = battle.active_pokemon, battle.opponent_active_pokemon
    moves = list(us.moves.values())[:MOVES] if us else []
    team = list(battle.team.values())[:SLOTS]
    parts = [move_features(move, us, them) for move in moves]
    parts += [[0.0] * MOVE_FEATURES] * (MOVES - len(moves))
    parts += [slot_features(mon, them) for mon in team]
    parts += [[0.0] * SLOT_FEATURES] * (SLOTS - len(team))
    parts += [field_features(battle, us, them)]
    return np.concatenate(parts).astype(np.float32)


def move_features(move: Move, us: Pokemon, them: Pokemon | None) -> list[float]:
    """Power, effectiveness, what both make together, its accuracy, and whether it is a status move."""
    power = move.base_power * move.expected_hits / 100.0
    own_type = 1.5 if move.type in us.types else 1.0
    effect = them.damage_multiplier(move) if them else 1.0
    status = float(move.category is MoveCategory.STATUS)
    return [power, effect, power * own_type * effect * move.accuracy, move.accuracy, status]


def slot_features(mon: Pokemon, them: Pokemon | None) -> list[float]:
    """Health, whether it fights, the worst that the other's types do to it, the best that its moves do."""
    worst = max((mon.damage_multiplier(kind) for kind in them.types), default=1.0) if them else 1.0
    attacks = [move for move in mon.moves.values() if move.base_power > 0]
    best = max((them.damage_multiplier(move) for move in attacks), default=1.0) if them else 1.0
    return [mon.current_hp_fraction, float(mon.active), worst, best]


def field_features(battle: Battle, us: Pokemon | None, them: Pokemon | None) -> list[float]:
    """Health, conditions and boosts of both who fight, how many are left, and whether we must switch."""
    fighters = [
        value
        for mon in (us, them)
        for value in (
            [mon.current_hp_fraction, float(mon.status is not None), sum(mon.boosts.values()) / 6.0]
            if mon
            else [0.0, 0.0, 0.0]
        )
    ]
    left = [
        1.0 - sum(mon.fainted for mon in team.values()) / SLOTS
        for team in (battle.team, battle.opponent_team)
    ]
    return [*fighters, *left, float(battle.force_switch)]


async def play(options: argparse.Namespace) -> None:
    """Battle and deposit until SIGTERM; the battle in progress is fought to its end."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    actor = create_actor(options)
    writer = EpisodeWriter(
        options.spool,
        client_id=f"pokemon-{options.seed}",
        env_id=FORMAT,
        action_space=spaces.Discrete(ACTIONS),
        observation_space=spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float32),
    )
    at_random = random_policy(options.seed)
    bot = Bot(at_random, writer=writer, **account(options, "learner"))
    opponent = RandomPlayer(**account(options, "opponent"))
    await log_in(bot, opponent)
    while not stopped.is_set():
        actor.refresh()
        if actor.version:
            bot.policy, bot.version = learned_policy(actor), actor.version
        await bot.battle_against(opponent)
        bot.reset_battles()
        opponent.reset_battles()
    print(json.dumps({"deposited": bot.deposited}))


async def evaluate(options: argparse.Namespace) -> None:
    """Print the results against a random player: of the newest policy, and of another random player."""
    actor = create_actor(options)
    opponent = RandomPlayer(**account(options, "opponent"))
    players = {
        "learned": Bot(learned_policy(actor), **account(options, "learned")),
        "random": RandomPlayer(**account(options, "random")),
    }
    await log_in(opponent, *players.values())
    results = {}
    for name, player in players.items():
        await player.battle_against(opponent, n_battles=options.battles)
        results[name] = [result(battle) for battle in player.battles.values()]
    print(json.dumps({"version": actor.version, **results}))


def result(battle: Battle) -> float:
    """1 for a win, 0.5 for a tie, 0 for a loss."""
    return 1.0 if battle.won else 0.0 if battle.lost else 0.5


def create_actor(options: argparse.Namespace) -> Actor:
    """Who acts with the newest version."""
    return Actor(options.state, seed=options.seed, action_space=spaces.Discrete(ACTIONS))


def learned_policy(actor: Actor) -> Policy:
    """The version that acts."""
    return lambda obs, mask: actor.act(obs, mask=mask)


def random_policy(seed: int) -> Policy:
    """Every legal action, as likely."""
    rng = np.random.default_rng(seed)

    def act(_: np.ndarray, mask: np.ndarray) -> tuple[int, float]:
        allowed = np.flatnonzero(mask)
        return int(rng.choice(allowed)), -math.log(len(allowed))

    return act


def account(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Who plays, where and what; names are unique on a server."""
    return {
        "account_configuration": AccountConfiguration(f"{name}{options.seed}", None),
        "server_configuration": ServerConfiguration(f"ws://{options.server}/showdown/websocket", NEVER),
        "battle_format": FORMAT,
        "open_timeout": float(LOGIN_S),
        "ping_interval": None,  # nobody is between us and the server who could cut an idle connection
    }


async def log_in(*players: Player) -> None:
    """Wait until all are known to the server; poke-env itself would wait for ever for one who is not."""
    for player in players:
        await player.ps_client.wait_for_login(checking_interval=0.1, wait_for=LOGIN_S)


def main() -> None:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=("play", "evaluate"))
    parser.add_argument("--server", default="127.0.0.1:8000", help="address and port, on this machine")
    parser.add_argument("--spool", type=Path)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--battles", type=int, default=150, help="how many to evaluate on")
    options = parser.parse_args()
    asyncio.run((play if options.command == "play" else evaluate)(options))


if __name__ == "__main__":
    main()
