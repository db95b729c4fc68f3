/* A CartPole client in C99, by the written contract alone and without a library. Copy it.
 *
 * It does three things, and never waits for the daemon:
 *
 * 1. take_up: between episodes, look at state/CURRENT and load the version that it names.
 * 2. choose: compute the actions' probabilities, draw one, note its log-probability and the version.
 * 3. deposit: write the whole episode aside in spool/in under a name that starts with ".tmp-", then rename it.
 *
 *     cc -std=c99 -O2 -o cartpole cartpole.c -lm
 *     ./cartpole SPOOL STATE [STEPS_PER_SECOND [SEED]]
 *
 * After each episode a line of JSON goes to standard output: {"at", "return", "steps", "version"}.
 * The contract is in learnerd/docs/clients.md.
 */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { INPUTS = 4, ACTIONS = 2, MOST_STEPS = 500, MOST_LAYERS = 16, PATH_BYTES = 4096 };

static const char CLIENT_ID[] = "cartpole-c";

/* ---- SHA-256 (FIPS 180-4) ---- */

static uint32_t rotated(uint32_t x, int bits) { return x >> bits | x << (32 - bits); }

static const uint32_t ROUND[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static void sha256_block(uint32_t state[8], const unsigned char *block) {
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (rotated(a, 7) ^ rotated(a, 18) ^ a >> 3) +
               (rotated(b, 17) ^ rotated(b, 19) ^ b >> 10);
    }
    memcpy(s, state, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t e = s[4], a = s[0];
        uint32_t one = s[7] + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) + ((e & s[5]) ^ (~e & s[6])) +
                       ROUND[i] + w[i];
        uint32_t two = (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) +
                       ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += one;
        s[0] = one + two;
    }
    for (int i = 0; i < 8; i++) state[i] += s[i];
}

static void sha256(const unsigned char *data, size_t size, char hex[65]) {
    uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    unsigned char last[128] = {0};
    size_t rest = size % 64, padded = rest < 56 ? 64 : 128;
    for (size_t at = 0; at + 64 <= size; at += 64) sha256_block(state, data + at);
    if (rest) memcpy(last, data + size - rest, rest);
    last[rest] = 0x80;
    for (size_t i = 0; i < 8; i++) last[padded - 1 - i] = (unsigned char)((uint64_t)size * 8 >> 8 * i);
    for (size_t at = 0; at < padded; at += 64) sha256_block(state, last + at);
    for (int i = 0; i < 8; i++) sprintf(hex + 8 * i, "%08x", (unsigned)state[i]);
}

/* ---- JSON: as much as finding a value takes; NULL where it is not there, or not JSON ---- */

static const char *after_space(const char *p) { return p + strspn(p, " \t\r\n"); }

static const char *after_string(const char *p) {
    for (p++; *p && *p != '"'; p++)
        if (*p == '\\' && !*++p) return NULL;
    return *p ? p + 1 : NULL;
}

static const char *after_value(const char *p) {
    int depth = 0;
    do {
        p = after_space(p);
        if (!*p) return NULL;
        if (*p == '"') {
            if (!(p = after_string(p))) return NULL;
            continue;
        }
        if (*p == '{' || *p == '[') depth++;
        if (*p == '}' || *p == ']') depth--;
        p += strchr("{}[],:", *p) ? 1 : strcspn(p, "{}[],:\" \t\r\n");
    } while (depth > 0);
    return p;
}

/* The value under a key of the object that begins at p. */
static const char *member(const char *p, const char *key) {
    if (!p || *(p = after_space(p)) != '{') return NULL;
    for (p = after_space(p + 1); *p == '"'; p = after_space(p + 1)) {
        const char *name = p + 1;
        if (!(p = after_string(p))) return NULL;
        int found = (size_t)(p - 1 - name) == strlen(key) && !strncmp(name, key, strlen(key));
        if (*(p = after_space(p)) != ':') return NULL;
        p = after_space(p + 1);
        if (found) return p;
        if (!(p = after_value(p)) || *(p = after_space(p)) != ',') return NULL;
    }
    return NULL;
}

static int is_word(const char *p, const char *word) { return p && !strncmp(p, word, strlen(word)); }

/* The numbers of the list at p; how many there are, at most `most`; -1: it is no list of numbers. */
static int numbers(const char *p, double *out, int most) {
    if (!p || *p != '[') return -1;
    for (int n = 0; n < most; n++) {
        char *end;
        p = after_space(p + 1);
        if (*p == ']') return n;
        out[n] = strtod(p, &end);
        if (end == p) return -1;
        p = after_space(end);
        if (*p != ',') return *p == ']' ? n + 1 : -1;
    }
    return -1;
}

/* ---- A version: read whole, checked, then used ---- */

typedef struct {
    int inputs, outputs;
    float *weight, *bias; /* weight [outputs][inputs] */
} Layer;

typedef struct {
    int version; /* 0: none yet */
    int layers, widest, relu, layer_norm, normalize;
    Layer layer[MOST_LAYERS];
    float mean[INPUTS], inverse_std[INPUTS];
} Policy;

/* A whole file with a 0 behind it, to be freed; NULL with errno. */
static unsigned char *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    unsigned char *data = NULL;
    struct stat about;
    if (!file) return NULL;
    if (!fstat(fileno(file), &about) && (data = malloc((size_t)about.st_size + 1))) {
        *size = fread(data, 1, (size_t)about.st_size, file);
        data[*size] = 0;
    }
    fclose(file);
    return data;
}

/* Copy one tensor of a safetensors file; 0 when it is not there with this type and at most these sizes.
 * The file: 8 bytes length of the header (little-endian), the header (JSON), the tensors' bytes. */
static void *tensor(const unsigned char *data, size_t size, const char *header, const char *name,
                    const char *dtype, int shape[2]) {
    const char *entry = member(header, name);
    size_t item = !strcmp(dtype, "\"F64\"") ? 8 : 4, begin = 8 + strlen(header), bytes;
    double sizes[2] = {1, 1}, offsets[2];
    void *copy;
    int rank = numbers(member(entry, "shape"), sizes, 2);
    if (rank < 1 || !is_word(member(entry, "dtype"), dtype)) return NULL;
    if (numbers(member(entry, "data_offsets"), offsets, 2) != 2) return NULL;
    if (sizes[0] < 1 || sizes[1] < 1 || sizes[0] > 65536 || sizes[1] > 65536) return NULL;
    bytes = (size_t)sizes[0] * (size_t)sizes[1] * item;
    if (offsets[0] < 0 || offsets[1] - offsets[0] != (double)bytes || offsets[1] > (double)(size - begin))
        return NULL;
    if (!(copy = malloc(bytes))) return NULL;
    memcpy(copy, data + begin + (size_t)offsets[0], bytes);
    shape[0] = (int)sizes[0];
    shape[1] = rank == 2 ? (int)sizes[1] : 1;
    return copy;
}

static void release(Policy *policy) {
    for (int i = 0; i < policy->layers; i++) {
        free(policy->layer[i].weight);
        free(policy->layer[i].bias);
    }
    memset(policy, 0, sizeof *policy);
}

/* x̂ = clip((x - mean) / sqrt(m2 / count + 1e-8), ±10); before the first observation mean 0 and deviation 1. */
static int load_statistics(Policy *policy, const unsigned char *data, size_t size, const char *header) {
    int shape[2], ok;
    double *count = tensor(data, size, header, "normalizer.count", "\"F64\"", shape);
    double *mean = tensor(data, size, header, "normalizer.mean", "\"F64\"", shape);
    double *m2 = tensor(data, size, header, "normalizer.m2", "\"F64\"", shape);
    if ((ok = count && mean && m2 && shape[0] == INPUTS))
        for (int i = 0; i < INPUTS; i++) {
            policy->mean[i] = *count > 0 ? (float)mean[i] : 0;
            policy->inverse_std[i] = *count > 0 ? (float)(1 / sqrt(m2[i] / *count + 1e-8)) : 1;
        }
    free(count);
    free(mean);
    free(m2);
    return ok;
}

/* Unpack a model whose hash was checked; NULL, or what is wrong with it. */
static const char *unpack(Policy *policy, const unsigned char *data, size_t size, const char *spec,
                          const char *header) {
    int width = INPUTS;
    policy->relu = is_word(member(spec, "activation"), "\"relu\"");
    policy->layer_norm = is_word(member(spec, "layer_norm"), "true");
    policy->normalize = is_word(member(spec, "normalize"), "true");
    policy->widest = ACTIONS;
    for (int i = 0; i < MOST_LAYERS; i++) {
        Layer *layer = &policy->layer[i];
        char name[64];
        int shape[2], bias[2] = {0, 0};
        sprintf(name, "policy.%d.weight", i);
        if (!member(header, name)) break;
        policy->layers = i + 1;
        if (!(layer->weight = tensor(data, size, header, name, "\"F32\"", shape))) return "a weight is unusable";
        sprintf(name, "policy.%d.bias", i);
        layer->bias = tensor(data, size, header, name, "\"F32\"", bias);
        if (shape[1] != width || !layer->bias || bias[0] != shape[0]) return "layers do not fit together";
        layer->inputs = width;
        layer->outputs = width = shape[0];
        if (width > policy->widest) policy->widest = width;
    }
    if (!policy->layers || width != ACTIONS) return "it is no policy for CartPole";
    return load_statistics(policy, data, size, header) ? NULL : "the statistics are unusable";
}

/* Read the manifest of a version, check the model against it, unpack it; NULL, or what is wrong. */
static const char *load(Policy *policy, const char *state, const char *name) {
    char path[PATH_BYTES], hex[65];
    unsigned char *manifest, *model = NULL;
    char *header = NULL;
    const char *problem = NULL, *file, *digest;
    size_t size, length = 0;
    snprintf(path, sizeof path, "%s/checkpoints/%s/manifest.json", state, name);
    if (!(manifest = read_file(path, &size))) return strerror(errno);
    snprintf(path, sizeof path, "%s/checkpoints/%s/model.safetensors", state, name);
    file = member(member((char *)manifest, "files"), "model.safetensors");
    digest = member(file, "sha256");
    if (!digest || !member(file, "bytes")) problem = "the manifest names no model";
    else if (!(model = read_file(path, &size))) problem = strerror(errno);
    else if (sha256(model, size, hex), strtod(member(file, "bytes"), NULL) != (double)size ||
             strncmp(digest + 1, hex, 64) != 0)
        problem = "the model does not have the size and sha256 that its manifest names";
    else {
        for (int i = 7; i >= 0; i--) length = length << 8 | model[i];
        if (size < 8 || length > size - 8 || !(header = calloc(length + 1, 1))) problem = "no safetensors file";
    }
    if (!problem) {
        memcpy(header, model + 8, length);
        problem = unpack(policy, model, size, member((char *)manifest, "spec"), header);
    }
    policy->version = atoi(name);
    free(header);
    free(model);
    free(manifest);
    return problem;
}

/* Take up the version that CURRENT names; keep the one in use when there is no better one. A version never
 * changes, but old ones are removed after some minutes: CURRENT then names a newer one, the next time. */
static void take_up(Policy *policy, const char *state) {
    char path[PATH_BYTES], name[9] = "";
    Policy next = {0};
    const char *problem;
    FILE *file;
    snprintf(path, sizeof path, "%s/CURRENT", state);
    if (!(file = fopen(path, "r"))) return; /* nothing has been published yet */
    if (fscanf(file, "%8[0-9]", name) != 1) name[0] = 0;
    fclose(file);
    if (strlen(name) != 8 || atoi(name) <= policy->version) return;
    if ((problem = load(&next, state, name))) {
        fprintf(stderr, "version %s is not usable, keeping the last one: %s\n", name, problem);
        release(&next);
        return;
    }
    release(policy);
    *policy = next;
}

/* ---- Acting ---- */

static uint64_t random_state;

static double uniform(void) { /* [0, 1), SplitMix64 (Steele et al. 2014) */
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) / 9007199254740992.0;
}

/* Standardize a layer's sums over its units. */
static void standardize(float *sums, int n) {
    float mean = 0, variance = 0;
    for (int i = 0; i < n; i++) mean += sums[i] / (float)n;
    for (int i = 0; i < n; i++) variance += (sums[i] - mean) * (sums[i] - mean) / (float)n;
    for (int i = 0; i < n; i++) sums[i] = (sums[i] - mean) / sqrtf(variance + 1e-5f);
}

/* y = W_n act(… act(W_0 x̂ + b_0) …) + b_n */
static void forward(const Policy *policy, const float obs[INPUTS], float out[ACTIONS]) {
    int widest = policy->widest > INPUTS ? policy->widest : INPUTS;
    float x[widest], y[widest];
    memcpy(x, obs, INPUTS * sizeof *x);
    for (int i = 0; policy->normalize && i < INPUTS; i++)
        x[i] = fmaxf(-10, fminf(10, (x[i] - policy->mean[i]) * policy->inverse_std[i]));
    for (int i = 0; i < policy->layers; i++) {
        const Layer *layer = &policy->layer[i];
        for (int row = 0; row < layer->outputs; row++) {
            y[row] = layer->bias[row];
            for (int k = 0; k < layer->inputs; k++) y[row] += layer->weight[row * layer->inputs + k] * x[k];
        }
        if (i < policy->layers - 1) {
            if (policy->layer_norm) standardize(y, layer->outputs);
            for (int k = 0; k < layer->outputs; k++) y[k] = policy->relu ? fmaxf(y[k], 0) : tanhf(y[k]);
        }
        memcpy(x, y, sizeof x);
    }
    memcpy(out, x, ACTIONS * sizeof *x);
}

/* Draw an action; its log-probability lets the learner correct for an old version. */
static int choose(const Policy *policy, const float obs[INPUTS], double *logp) {
    float logits[ACTIONS] = {0}; /* before the first version: at random */
    double total = 0, largest, left;
    int action = 0;
    if (policy->version) forward(policy, obs, logits);
    largest = logits[0] > logits[1] ? logits[0] : logits[1];
    for (int i = 0; i < ACTIONS; i++) total += exp(logits[i] - largest);
    left = uniform() * total;
    while (action < ACTIONS - 1 && (left -= exp(logits[action] - largest)) >= 0) action++;
    *logp = logits[action] - largest - log(total);
    return action;
}

/* ---- CartPole (Barto, Sutton & Anderson 1983), as in Gymnasium's CartPole-v1 ---- */

typedef struct {
    double x, x_dot, theta, theta_dot;
} Cart;

static int step(Cart *cart, int action) { /* whether it is over */
    const double g = 9.8, cart_mass = 1, pole_mass = 0.1, half = 0.5, push = 10, dt = 0.02;
    double force = action ? push : -push, cosine = cos(cart->theta), sine = sin(cart->theta);
    double total = cart_mass + pole_mass, moment = pole_mass * half;
    double temp = (force + moment * cart->theta_dot * cart->theta_dot * sine) / total;
    double theta_acc = (g * sine - cosine * temp) / (half * (4.0 / 3 - pole_mass * cosine * cosine / total));
    double x_acc = temp - moment * theta_acc * cosine / total;
    cart->x += dt * cart->x_dot;
    cart->x_dot += dt * x_acc;
    cart->theta += dt * cart->theta_dot;
    cart->theta_dot += dt * theta_acc;
    return fabs(cart->x) > 2.4 || fabs(cart->theta) > 12 * 2 * 3.14159265358979 / 360;
}

static void observe(const Cart *cart, float obs[INPUTS]) {
    obs[0] = (float)cart->x, obs[1] = (float)cart->x_dot;
    obs[2] = (float)cart->theta, obs[3] = (float)cart->theta_dot;
}

/* ---- An episode: played, then deposited ---- */

typedef struct {
    int steps, terminated, action[MOST_STEPS];
    float obs[MOST_STEPS + 1][INPUTS];
    double logp[MOST_STEPS];
} Episode;

static double now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void play(Episode *episode, const Policy *policy, double rate) {
    Cart cart = {uniform() / 10 - 0.05, uniform() / 10 - 0.05, uniform() / 10 - 0.05, uniform() / 10 - 0.05};
    double due = now(CLOCK_MONOTONIC);
    episode->steps = episode->terminated = 0;
    observe(&cart, episode->obs[0]);
    while (!episode->terminated && episode->steps < MOST_STEPS) {
        int i = episode->steps++;
        double early = (due += 1 / rate) - now(CLOCK_MONOTONIC);
        if (early > 0.005) nanosleep(&(struct timespec){(time_t)early, (long)(fmod(early, 1) * 1e9)}, NULL);
        episode->action[i] = choose(policy, episode->obs[i], &episode->logp[i]);
        episode->terminated = step(&cart, episode->action[i]);
        observe(&cart, episode->obs[i + 1]);
    }
}

static void print_obs(FILE *file, const char *name, const float obs[INPUTS]) {
    fprintf(file, "{\"%s\": [%.9g, %.9g, %.9g, %.9g], ", name, obs[0], obs[1], obs[2], obs[3]);
}

/* Write the episode aside and rename it: from then on it belongs to the daemon. 0 when it could not be. */
static int deposit(const Episode *episode, const char *spool, int version, const char *id) {
    char aside[PATH_BYTES], final[PATH_BYTES];
    FILE *file;
    int failed;
    snprintf(aside, sizeof aside, "%s/in/.tmp-%s.jsonl", spool, id);
    snprintf(final, sizeof final, "%s/in/%s.jsonl", spool, id);
    if (!(file = fopen(aside, "w"))) return 0;
    fprintf(file, "{\"episode_id\": \"%s\", \"client_id\": \"%s\", \"policy_version\": %d, ", id, CLIENT_ID, version);
    fprintf(file, "\"action_space\": {\"kind\": \"discrete\", \"n\": %d}, ", ACTIONS);
    fprintf(file, "\"env_id\": \"CartPole-v1\", \"ended_at\": %.3f}\n", now(CLOCK_REALTIME));
    for (int i = 0; i < episode->steps; i++) {
        print_obs(file, "obs", episode->obs[i]);
        fprintf(file, "\"action\": %d, \"reward\": 1.0, \"logp\": %.17g}\n", episode->action[i], episode->logp[i]);
    }
    print_obs(file, "final_obs", episode->obs[episode->steps]);
    fprintf(file, "\"terminated\": %s, ", episode->terminated ? "true" : "false");
    fprintf(file, "\"truncated\": %s}\n", episode->terminated ? "false" : "true");
    failed = ferror(file);
    if (fclose(file) || failed || rename(aside, final)) return 0;
    return 1;
}

int main(int count, char **argument) {
    static Episode episode;
    Policy policy = {0};
    const uint16_t one = 1;
    double rate = count > 3 ? atof(argument[3]) : 2000;
    long long began = (long long)(now(CLOCK_REALTIME) * 1e6);
    if (count < 3 || rate <= 0 || !*(const unsigned char *)&one) {
        fprintf(stderr, "usage: %s SPOOL STATE [STEPS_PER_SECOND [SEED]]; little-endian machines\n", argument[0]);
        return 2;
    }
    random_state = count > 4 ? strtoull(argument[4], NULL, 10) : (uint64_t)began;
    for (int i = 0;; i++) {
        char id[64];
        take_up(&policy, argument[2]); /* between episodes: one version plays a whole episode */
        play(&episode, &policy, rate);
        snprintf(id, sizeof id, "%s-%lld-%ld-%d", CLIENT_ID, began, (long)getpid(), i);
        if (!deposit(&episode, argument[1], policy.version, id))
            fprintf(stderr, "episode %s could not be deposited: %s\n", id, strerror(errno));
        printf("{\"at\": %.3f, \"return\": %d, \"steps\": %d, \"version\": %d}\n", now(CLOCK_REALTIME), episode.steps,
               episode.steps, policy.version);
        fflush(stdout);
    }
}
