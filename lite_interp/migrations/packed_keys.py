"""Firings by a number of eight bytes: with a text key, most of a wide cache was keys."""

PACKED_KEYS = """
alter table caches add column number integer /* names this cache in firings.key */;
alter table caches add column span integer not null default 1 /* shards of contexts in one of it */;
update caches set number = rowid;
create unique index caches_number on caches(number);
alter table cache_shards add column batch_tokens integer /* tokens in a forward pass */;
alter table latents add column n_windows integer /* activating; null: all firings are kept */;
create table new_firings (
    key integer primary key,            -- (number << 44) | (shard << 24) | latent
    packed blob not null,               -- firing_codec.pack_firings
    cache integer as (key >> 44) virtual,
    shard integer as (key >> 24 & 1048575) virtual, -- 1048575: windows kept of the whole corpus
    latent integer as (key & 16777215) virtual
) strict;
insert into new_firings (key, packed)
    select (number << 44) | (firings.shard << 24) | firings.latent, packed
    from firings join caches on caches.id = firings.cache_id
    order by number, firings.shard, firings.latent;
drop table firings;
alter table new_firings rename to firings;
"""
