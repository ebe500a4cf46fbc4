"""A study: everything that one run of the whole pipeline is told, from one TOML file.

An unknown key or a value of the wrong type is refused in one line. Paths in the file are
relative to the file.
"""

from lite_interp.study.making import (
    SHARD_TOKENS,
    cache_settings,
    corpus_settings,
    draw_settings,
    engine_settings,
    shard_contexts,
)
from lite_interp.study.presets import PRESETS, beside, preset
from lite_interp.study.reading import parse_section, parse_study, parse_value, read_study
from lite_interp.study.sections import (
    CacheSection,
    CoderSection,
    CorpusSection,
    EngineSection,
    ExamplesSection,
    ExplainSection,
    LatentsSection,
    ScoreSection,
    Section,
    Study,
    SubjectSection,
)

__all__ = [
    "PRESETS",
    "SHARD_TOKENS",
    "CacheSection",
    "CoderSection",
    "CorpusSection",
    "EngineSection",
    "ExamplesSection",
    "ExplainSection",
    "LatentsSection",
    "ScoreSection",
    "Section",
    "Study",
    "SubjectSection",
    "beside",
    "cache_settings",
    "corpus_settings",
    "draw_settings",
    "engine_settings",
    "parse_section",
    "parse_study",
    "parse_value",
    "preset",
    "read_study",
    "shard_contexts",
]
