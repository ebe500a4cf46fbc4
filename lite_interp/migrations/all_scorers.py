"""Tables for all the scorers; trials and verdicts are made anew, scores too."""

ALL_SCORERS = """
create table latent_details (
    cache_id text not null references caches(id),
    latent integer not null,
    quantiles text not null,            -- JSON: activation at 0, 10, … 100 % of the firings
    top_tokens text not null,           -- JSON: [text, share of the activation], most first
    single_token_share real not null,   -- share of the activation on the commonest token
    position_dependence real not null,  -- details.position_dependence
    flags text not null,                -- JSON: dead, rare, dense, single_token, positional
    promoted text,                      -- JSON: [token, logit] that the decoder direction raises
    suppressed text,                    -- JSON: [token, logit] that it lowers
    decoder_neighbours text not null,   -- JSON: [latent, cosine], nearest first
    cofiring_neighbours text not null,  -- JSON: [latent, Jaccard index], nearest first
    primary key (cache_id, latent)
) strict, without rowid;
create table window_vectors (
    corpus_id text not null references corpora(id),
    width integer not null,             -- tokens in a window
    embedder_id text not null references embedders(id),
    shard integer not null,             -- windows of one shard of contexts
    vectors blob not null,              -- codec.pack_vectors
    primary key (corpus_id, width, embedder_id, shard)
) strict;
create table steerings (
    id text primary key,
    example_set_id text not null references example_sets(id),
    settings text not null,             -- JSON: target KL or ablation, direction, counts, seed
    strength real,                      -- activation added; null: none, or ablated
    kl_tuned real,                      -- nats, on the prompts for tuning
    kl_scored real,                     -- nats, on the scored prompts
    promoted text not null,             -- JSON: tokens made likelier, share of lens tokens
    failure text,
    seconds real not null
) strict;
create index steerings_example_set on steerings(example_set_id);
create table continuations (
    steering_id text not null references steerings(id),
    window_id text not null references windows(id),
    steered integer not null,
    ordinal integer not null,
    prompt text not null,               -- beginning of the window
    text text not null,                 -- what the subject wrote behind it
    primary key (steering_id, window_id, steered, ordinal)
) strict, without rowid;
create table new_trials (
    id text primary key,
    scorer text not null,
    settings text not null,
    explanation_id text references explanations(id), -- null: the latent was judged without one
    example_set_id text not null references example_sets(id),
    control integer not null,           -- 1: an explanation of another latent, part of a null
    prompt_id text references prompts(id),
    engine_id text references engines(id),
    embedder_id text references embedders(id),
    prompt_tokens integer not null,
    output_tokens integer not null,
    seconds real not null
) strict;
insert into new_trials select id, scorer, settings, explanation_id, example_set_id, control,
    prompt_id, engine_id, embedder_id, prompt_tokens, output_tokens, seconds from trials;
create table new_verdicts (
    trial_id text not null references new_trials(id),
    window_id text not null references windows(id),
    item text not null,                 -- tells items of one window apart: right, wrong, a number
    active integer not null,            -- the right answer, from the cached activations
    value real,                         -- the scorer's number, in its unit
    failure text,
    detail text,                        -- JSON: what else the scorer says
    primary key (trial_id, window_id, item),
    check ((value is null) = (failure is not null))
) strict, without rowid;
insert into new_verdicts select trial_id, window_id, '', active, value, failure, null from verdicts;
drop table verdicts;
drop table trials;
drop table scores;
alter table new_trials rename to trials;
alter table new_verdicts rename to verdicts;
create index trials_example_set on trials(example_set_id, scorer);
create table scores (
    example_set_id text not null references example_sets(id),
    explanation_id text references explanations(id), -- null: the latent was judged without one
    scorer text not null,
    settings text not null,
    model_id text not null,             -- engine or embedder
    variant text not null,
    statistic text not null,            -- auroc, pearson, nats, accuracy
    value real,
    low real,                           -- 95 % interval
    high real,
    null_value real,                    -- the same number for other latents' explanations
    difference real,                    -- value less null, paired by window
    difference_low real,
    difference_high real,
    p_value real,                       -- one-sided: no better than its null
    q_value real,                       -- the same over latents, by Benjamini and Hochberg
    n_active integer not null,
    n_silent integer not null,
    n_failed integer not null,
    n_controls integer not null,
    metrics text not null,              -- JSON: rates, calibration, values by stratum
    reason text,                        -- why there is no value
    tokens integer not null,            -- engine tokens, controls included
    seconds real not null
) strict;
create table scorings (
    cache_id text primary key references caches(id),
    n_trials integer not null,          -- trials of the cache when its scores were computed
    version text not null               -- of lite-interp
) strict;
create unique index scores_key on scores(
    example_set_id, coalesce(explanation_id, ''), scorer, settings, model_id, variant);
"""
