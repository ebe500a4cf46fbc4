"""The schema of version 0.1 as it was first."""

FIRST_SCHEMA = """
create table subjects (
    id text primary key,                -- hash of the weights
    name text not null,
    architecture text not null,
    d_model integer not null,
    provenance text not null            -- JSON: path, files, dtype, device, library versions
) strict;
create table coders (
    id text primary key,                -- hash of the weights, hookpoint and settings
    name text not null,
    format text not null,
    hookpoint text not null,            -- module path and side in the subject
    activation text not null,
    k integer,
    d_in integer not null,
    n_latents integer not null,
    fit text not null,                  -- JSON: fvu, l0, dead_fraction, n_tokens
    provenance text not null            -- JSON: config as read, every assumption made
) strict;
create table corpora (
    id text primary key,
    name text not null,
    source_hash text not null,
    tokenizer_hash text not null,
    n_ctx integer not null,
    add_bos integer not null,
    packed integer not null,
    max_tokens integer not null,
    n_documents integer not null,
    n_skipped integer not null,
    n_contexts integer not null,
    n_tokens integer not null
) strict;
create table context_shards (
    corpus_id text not null references corpora(id),
    shard integer not null,
    first_context integer not null,
    n_contexts integer not null,
    token_ids blob not null,            -- codec.pack_contexts
    primary key (corpus_id, shard)
) strict, without rowid;
create table caches (
    id text primary key,
    corpus_id text not null references corpora(id),
    subject_id text not null references subjects(id),
    coder_id text not null references coders(id),
    settings text not null,             -- JSON: masks, dtypes
    n_counted integer,                  -- positions counted; null until the cache is complete
    n_masked integer                    -- positions left out of statistics
) strict;
create table cache_shards (
    cache_id text not null references caches(id),
    shard integer not null,
    n_firings integer not null,
    n_counted integer not null,
    n_masked text not null,             -- JSON: positions by reason
    seconds real not null,
    primary key (cache_id, shard)
) strict, without rowid;
create table firings (
    cache_id text not null,
    shard integer not null,
    latent integer not null,
    packed blob not null,               -- codec.pack_firings
    foreign key (cache_id, shard) references cache_shards(cache_id, shard)
) strict;
create unique index firings_key on firings(cache_id, latent, shard);
create table latents (
    cache_id text not null references caches(id),
    latent integer not null,
    n_firings integer not null,
    n_contexts integer not null,
    density real not null,              -- firings per counted position
    max_value real not null,
    mean_value real not null,           -- over firings
    histogram text not null,            -- JSON: 20 equal bins from 0 to max_value
    primary key (cache_id, latent)
) strict, without rowid;
create table windows (
    id text primary key,
    cache_id text not null references caches(id),
    latent integer not null,
    context integer not null,
    start integer not null,
    max_value real not null,
    marked text not null,               -- the text with << >> around activating tokens
    tokens text not null,               -- JSON: texts of the tokens
    acts text not null                  -- JSON: activations
) strict;
create index windows_latent on windows(cache_id, latent);
create table example_sets (
    id text primary key,
    cache_id text not null references caches(id),
    latent integer not null,
    sampler text not null,
    settings text not null,
    seed integer not null
) strict;
create table example_set_windows (
    example_set_id text not null references example_sets(id),
    role text not null check (role in ('shown', 'scored')),
    ordinal integer not null,
    window_id text not null references windows(id),
    stratum text not null,
    weight real not null,               -- windows of the stratum that this one stands for
    primary key (example_set_id, role, ordinal)
) strict, without rowid;
create table prompts (
    id text primary key,
    name text not null,
    text text not null                  -- the whole file
) strict;
create table engines (
    id text primary key,
    name text not null,
    provenance text not null            -- JSON: file, hash, settings, library versions
) strict;
create table embedders (
    id text primary key,
    name text not null,
    provenance text not null
) strict;
create table explanations (
    id text primary key,
    cache_id text not null references caches(id),
    latent integer not null,
    example_set_id text not null references example_sets(id),
    explainer text not null,
    prompt_id text references prompts(id),
    engine_id text references engines(id),
    settings text not null,
    text text,
    raw text not null,
    failure text,
    prompt_tokens integer not null,
    output_tokens integer not null,
    seconds real not null,
    check ((text is null) = (failure is not null))
) strict;
create index explanations_latent on explanations(cache_id, latent);
create table trials (
    id text primary key,
    scorer text not null,
    settings text not null,
    explanation_id text not null references explanations(id),
    example_set_id text not null references example_sets(id),
    control integer not null,           -- 1: an explanation of another latent, part of a null
    prompt_id text references prompts(id),
    engine_id text references engines(id),
    embedder_id text references embedders(id),
    prompt_tokens integer not null,
    output_tokens integer not null,
    seconds real not null
) strict;
create index trials_example_set on trials(example_set_id, scorer);
create table verdicts (
    trial_id text not null references trials(id),
    window_id text not null references windows(id),
    active integer not null,            -- the truth, from the cached activations
    value real,                         -- the scorer's number, in its unit
    failure text,
    primary key (trial_id, window_id),
    check ((value is null) = (failure is not null))
) strict, without rowid;
create table scores (
    explanation_id text not null references explanations(id),
    scorer text not null,
    settings text not null,
    model_id text not null,             -- engine or embedder
    variant text not null,
    statistic text not null,
    value real,
    low real,                           -- 95 % interval
    high real,
    null_value real,                    -- the same number for other latents' explanations
    difference real,                    -- value less null, paired by window
    difference_low real,
    difference_high real,
    n_active integer not null,
    n_silent integer not null,
    n_failed integer not null,
    n_controls integer not null,
    primary key (explanation_id, scorer, settings, model_id, variant)
) strict, without rowid;
create table runs (
    id integer primary key,
    command text not null,
    argv text not null,
    versions text not null,
    machine text not null,
    started_utc text not null,
    ended_utc text,
    outcome text                        -- done, interrupted, failed: …
) strict;
"""
