"""Preference data in Pick-a-Pic v2's schema, as pyarrow writes it with other choices of types and layout."""

import pyarrow as pa
import pyarrow.parquet as pq

from common import ROOT, case, save_json

ROWS = 12


def rows() -> dict[str, list]:
    """Three captions of four rows: a winner, a loser, a tie, and a row that is unlabelled or faulty."""
    labels = [1.0, 0.0, 0.5, None, 1.0, 1.0, 0.5, 1.0, 0.0, 0.0, 1.0, 0.0]
    captions = [f"prompt {i // 4}, naïve 図" for i in range(ROWS)]
    captions[7] = None
    first = [f"image-{i}" for i in range(ROWS)]
    second = [f"image-{i + 1}" for i in range(ROWS)]
    second[11] = None
    winner = {1.0: first, 0.0: second}
    return {
        "are_different": [label != 0.5 for label in labels],
        "best_image_uid": [winner[label][i] if label in winner else "tie" for i, label in enumerate(labels)],
        "caption": captions,
        "created_at": [None if i == 9 else 1_680_000_000_000 + 1000 * i for i in range(ROWS)],
        "has_label": [label is not None for label in labels],
        "image_0_uid": first,
        "image_0_url": [""] * ROWS,
        "image_1_uid": second,
        "image_1_url": [""] * ROWS,
        "jpg_0": [f"bytes of image-{i}".encode() for i in range(ROWS)],
        "jpg_1": [None if i == 5 else f"bytes of image-{i + 1}".encode() for i in range(ROWS)],
        "label_0": labels,
        "label_1": [None if label is None else 1 - label for label in labels],
        "model_0": ["dreamlike"] * ROWS,
        "model_1": ["sdxl"] * ROWS,
        "ranking_id": list(range(ROWS)),
        "user_id": [i % 3 for i in range(ROWS)],
        "num_example_per_prompt": [4] * ROWS,
        "__index_level_0__": list(range(ROWS)),
    }


def table(types: dict[str, pa.DataType] = {}, unit: str = "ns", zone: str | None = None) -> pa.Table:
    arrays = {}
    for name, values in rows().items():
        if name == "created_at":
            arrays[name] = pa.array(values, pa.timestamp("ms")).cast(pa.timestamp(unit, zone))
        else:
            made = pa.array(values)
            arrays[name] = made.cast(types.get(str(made.type), made.type))
    return pa.table(arrays)


def make() -> None:
    (ROOT / "parquet").mkdir(exist_ok=True)

    def write(name: str, made: pa.Table, **options) -> None:
        pq.write_table(made, ROOT / "parquet" / f"{name}.parquet", **options)
        case("parquet", name, file=f"parquet/{name}.parquet", images="jpg_0" in made.column_names)

    hub = table().replace_schema_metadata({"huggingface": '{"info": {"features": {}}}'})
    write("snappy", hub, compression="snappy", row_group_size=5)
    wide = table({"string": pa.large_string(), "binary": pa.large_binary()}, "us", "UTC")
    write("zstd-wide-reversed", wide.select(wide.column_names[::-1]), compression="zstd")
    coded = pa.dictionary(pa.int32(), pa.string())
    write(
        "plain-dictionary", table({"string": coded, "double": pa.float32()}, "ms"),
        compression="none", use_dictionary=False, row_group_size=6, data_page_version="2.0",
    )
    narrow = table(unit="s").drop_columns(["jpg_0", "jpg_1", "has_label", "__index_level_0__"])
    write("no-images", narrow, compression="snappy", store_schema=False)
    save_json("parquet/rows.json", {
        key: [None if v is None else v.decode() if isinstance(v, bytes) else v for v in values]
        for key, values in rows().items()
    })
