"""Hypothesis over all four formats: bytes edited at random, and well-formed files of odd values."""

import io
import json

import numpy as np
import pyarrow as pa
import pytest
from corpus import SMALL
from hostile_tables import arrow, parquet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from properties import check, check_episodes, check_problem

from experience.decoder import DecodeJob, Decoder
from experience.fields import CANONICAL

GOOD = {extension: small(1.8e9) for extension, small in SMALL.items()}
FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
MORE = settings(FEW, max_examples=150)

edits = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 4), st.binary(max_size=8)),
    min_size=1,
    max_size=4,
)
numbers = st.one_of(st.integers(-(2**70), 2**70), st.floats(), st.booleans(), st.none())
values = st.recursive(
    st.one_of(numbers, st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=8,
)
names = st.sampled_from(sorted(CANONICAL))


def edited(data, changes):
    """Cut out, put in and overwrite."""
    for where, n_cut, put in changes:
        at = int(where * len(data))
        data = data[:at] + put + data[at + n_cut :]
    return data


@pytest.mark.parametrize("extension", [".npz", ".jsonl"])
@MORE
@given(changes=edits)
def test_edited_bytes(extension, changes):
    check(edited(GOOD[extension], changes), f"e{extension}")


@pytest.fixture(scope="module")
def decoder():
    with Decoder() as decoder:
        yield decoder


@pytest.mark.parametrize("extension", [".parquet", ".arrow"])
@FEW
@given(changes=edits)
def test_edited_bytes_that_native_code_parses(decoder, tmp_path_factory, extension, changes):
    """In the decoder process: a crash there is a verdict, and not the end of this one."""
    folder = tmp_path_factory.mktemp("fuzz")
    path = folder / f"e{extension}"
    path.write_bytes(edited(GOOD[extension], changes))
    job = DecodeJob(claim_path=str(path), work_path=str(folder / "work"), name=path.name, ingested_at=1.0)
    (result,) = decoder.decode([job])
    if result.problem is not None:
        check_problem(result.problem)
    elif result.decoded is not None:
        check_episodes(result.decoded)


@MORE
@given(
    arrays=st.dictionaries(
        names, hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_side=0, max_side=3)), max_size=6
    )
)
def test_npz_of_any_arrays(arrays):
    stream = io.BytesIO()
    np.savez(stream, **{name: array for name, array in arrays.items() if name != "file"})
    check(stream.getvalue(), "e.npz")


@MORE
@given(meta=values)
def test_npz_with_any_metadata(meta):
    stream = io.BytesIO()
    arrays = {"obs": np.zeros((3, 2)), "action": np.zeros(2, int), "reward": np.zeros(2)}
    np.savez(stream, meta=np.array(json.dumps(meta)), **arrays)
    check(stream.getvalue(), "e.npz")


@MORE
@given(lines=st.lists(st.dictionaries(names, values, max_size=4), max_size=6))
def test_jsonl_of_any_objects(lines):
    check(b"".join(json.dumps(line).encode() + b"\n" for line in lines), "e.jsonl")


columns = st.dictionaries(
    names, st.lists(st.one_of(numbers, st.lists(numbers, max_size=3)), min_size=2, max_size=2)
)
rows = {"obs": [[[0.0], [1.0]]] * 2, "action": [[0]] * 2, "reward": [[1.0]] * 2, "terminated": [True] * 2}


@pytest.mark.parametrize("encode", [parquet, arrow])
@MORE
@given(replaced=columns)
def test_tables_of_any_columns(encode, replaced):
    given = {}
    for name, cells in {**rows, **replaced}.items():
        try:
            given[name] = pa.array(cells)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, pa.ArrowNotImplementedError):
            continue
    if given:
        check(encode(pa.table(given)), "e.parquet" if encode is parquet else "e.arrow")


kinds = st.recursive(
    st.sampled_from(
        [
            pa.null(),
            pa.bool_(),
            pa.int8(),
            pa.uint64(),
            pa.float16(),
            pa.float64(),
            pa.string(),
            pa.binary(),
            pa.date32(),
            pa.timestamp("ns"),
            pa.timestamp("us", "UTC"),
            pa.decimal128(5, 2),
            pa.duration("s"),
            pa.time64("ns"),
            pa.dictionary(pa.int8(), pa.string()),
            pa.large_string(),
            pa.month_day_nano_interval(),
        ]
    ),
    lambda inner: st.one_of(
        inner.map(pa.list_),
        inner.map(pa.large_list),
        inner.map(lambda kind: pa.list_(kind, 2)),
        inner.map(lambda kind: pa.struct([("a", kind)])),
        inner.map(lambda kind: pa.map_(pa.string(), kind)),
    ),
    max_leaves=3,
)


@MORE
@given(name=st.one_of(names, st.just("other")), kind=kinds)
def test_arrow_columns_of_any_type(name, kind):
    """Null, and the type's own zero."""
    cells = pa.nulls(2, kind)
    check(arrow(pa.table({**rows, name: cells})), "e.arrow")
