# The policy and the game of corridor.sh.

# ---- The policy: y = W_n · act(… act(W_0 x̂ + b_0) …) + b_n ----

# A version, from its manifest and its tensors as flat lists.
def policy($manifest; $tensors):
  $manifest.spec as $spec
  | def rows($n): length as $size | [range(0; $size; $size / $n) as $i | .[$i:$i + $size / $n]];
  $tensors["normalizer.count"][0] as $count
  | {
      version: $manifest.version,
      activation: $spec.activation,
      layer_norm: $spec.layer_norm,
      # before the first observation: mean 0, deviation 1
      mean: (if $count > 0 then $tensors["normalizer.mean"] else $tensors["normalizer.mean"] | map(0) end),
      deviation: ($tensors["normalizer.m2"] | map(if $count > 0 then . / $count + 1e-8 | sqrt else 1 end)),
      normalize: $spec.normalize,
      layers: [
        range($spec.hidden | length + 1) as $i
        | $tensors["policy.\($i).bias"] as $bias
        | { bias: $bias, weight: ($tensors["policy.\($i).weight"] | rows($bias | length)) }
      ]
    };

def mean: add / length;

# act(s) of a layer's sums
def activated($policy):
  if $policy.layer_norm then mean as $mean | map(. - $mean) | (map(. * .) | mean + 1e-5 | sqrt) as $deviation | map(. / $deviation) else . end
  | if $policy.activation == "relu" then map(if . > 0 then . else 0 end) else map(tanh) end;

def layer($layer):
  . as $x
  | [range($layer.bias | length) as $row
      | $layer.weight[$row] as $weight
      | reduce range($x | length) as $k ($layer.bias[$row]; . + $weight[$k] * $x[$k])];

def normalized($policy):
  if $policy.normalize then
    [range(length) as $i | (.[$i] - $policy.mean[$i]) / $policy.deviation[$i]
      | if . > 10 then 10 elif . < -10 then -10 else . end]
  else . end;

# Observation -> log-probability of each action; without a policy (null): two actions at random.
def log_probs($policy):
  if $policy == null then [0, 0] else
    reduce $policy.layers[:-1][] as $layer (normalized($policy); layer($layer) | activated($policy))
    | layer($policy.layers[-1])
  end
  | max as $largest | map(. - $largest) | (map(exp) | add | log) as $log_total | map(. - $log_total);

# ---- The game: seven cells, from the middle to the right end, in at most 30 steps ----

def obs: . as $cell | [range(7) | if . == $cell then 1 else 0 end];

# One episode as lines of JSONL; $random: 30 numbers in [0, 1).
def episode($policy; $random; $header):
  { cell: 3, steps: [] }
  | until(.cell == 6 or (.steps | length) == 30;
      (.cell | obs) as $obs
      | ($obs | log_probs($policy)) as $log_probs
      | (if $random[.steps | length] < ($log_probs[1] | exp) then 1 else 0 end) as $action
      | .cell = (if $action == 1 then .cell + 1 elif .cell > 0 then .cell - 1 else 0 end)
      | .steps += [{ obs: $obs, action: $action, reward: (if .cell == 6 then 1 else -0.05 end), logp: $log_probs[$action] }])
  | ($header + { ended_at: now }), .steps[],
    { final_obs: (.cell | obs), terminated: (.cell == 6), truncated: (.cell != 6) };

# 16 episodes; $random: 480 numbers below 2^32.
def round($policy; $random):
  range(16) as $i
  | episode($policy; $random[30 * $i:30 * ($i + 1)] | map(. / 4294967296); {
      episode_id: "\($ARGS.named.id)-\($i)",
      client_id: $ARGS.named.client,
      policy_version: ($policy.version // 0),
      action_space: { kind: "discrete", n: 2 }
    });

# What each deposited episode earned, from its lines.
def reports:
  foreach inputs as $line (null;
    if $line.episode_id then { return: 0, steps: 0, version: $line.policy_version }
    elif $line.final_obs then .at = now
    else .return += $line.reward | .steps += 1 end;
    select($line.final_obs));
