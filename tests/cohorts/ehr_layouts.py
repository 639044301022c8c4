"""Small files in the exact layouts of published tables of records: every column, odd values, the traps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ED_VITALS = ("temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp", "pain")
CHIEF_COMPLAINTS = ("chest_pain", "abdominal_pain", "headache", "shortness_of_breath", "back_pain", "cough",
                    "nausea_vomiting", "fever_chills", "syncope", "dizziness")  # fmt: skip
CHARLSON = ("MI", "CHF", "PVD", "Stroke", "Dementia", "Pulmonary", "Rheumatic", "PUD", "Liver1", "DM1", "DM2",
            "Paralysis", "Renal", "Cancer1", "Liver2", "Cancer2", "HIV")  # fmt: skip
ELIXHAUSER = ("CHF", "Arrhythmia", "Valvular", "PHTN", "PVD", "HTN1", "HTN2", "Paralysis", "NeuroOther", "Pulmonary",
              "DM1", "DM2", "Hypothyroid", "Renal", "Liver", "PUD", "HIV", "Lymphoma", "Tumor2", "Tumor1",
              "Rheumatic", "Coagulopathy", "Obesity", "WeightLoss", "FluidsLytes", "BloodLoss", "Anemia", "Alcohol",
              "Drugs", "Psychoses", "Depression")  # fmt: skip
ED_SCORES = ("triage_MAP", "score_CCI", "score_CART", "score_REMS", "score_NEWS", "score_NEWS2", "score_MEWS")
ED_RACES = ("WHITE", "BLACK/AFRICAN AMERICAN", "HISPANIC/LATINO - PUERTO RICAN", "ASIAN - CHINESE", "UNKNOWN", "")


def ed_master() -> pd.DataFrame:
    """`master_dataset.csv` of the benchmark, all columns in its order: 140 visits of 75 patients.

    Degrees Fahrenheit (one visit wrote Celsius, one a typing error), numbers with `.0`, truth as True and False, empty
    vital signs; children, deaths in the emergency department and visits after a recorded death.
    """
    rng = np.random.default_rng(8)
    patient = np.sort(np.concatenate([np.arange(75), rng.integers(0, 75, 65)]))
    ages = rng.integers(16, 91, 75)
    rows = []
    for row, who in enumerate(patient):
        admitted, critical = bool(rng.random() < 0.45), bool(rng.random() < 0.1)
        year = 2150 + row % 3
        one: dict[str, Any] = {
            "index": 1000 - row, "subject_id": 10_000_032 + 511 * who,
            "hadm_id": 20_000_000.0 + row if admitted else "", "stay_id": 30_000_000 + 7 * row,
            "intime": f"{year}-05-06 19:17:00", "outtime": f"{year}-05-06 23:30:00",
            "anchor_age": ages[who], "gender": "FM"[who % 2], "anchor_year": 2150, "dod": "",
            "admittime": f"{year}-05-06 22:23:00" if admitted else "", "dischtime": "", "deathtime": "",
            "ethnicity": ED_RACES[who % 6] if admitted else "", "edregtime": "", "edouttime": "",
            "insurance": ("Medicare", "Medicaid", "Other")[who % 3] if admitted else "", "in_year": year,
            "age": ages[who] + year - 2150, "outcome_inhospital_mortality": critical and row % 2 == 0,
            "ed_death": row % 41 == 3, "before_ed_mortality": row % 41 == 5, "ed_los": "0 days 04:13:00",
            "intime_icu": "", "time_to_icu_transfer": "", "outcome_icu_transfer_12h": critical and row % 2 == 1,
            "outcome_hospitalization": admitted, "outcome_critical": critical,
        }  # fmt: skip
        one |= {f"n_ed_{days}d": int(rng.integers(0, 4)) for days in (30, 90, 365)}
        one |= {"next_ed_visit_time": "", "next_ed_visit_time_diff": "", "outcome_ed_revisit_3d": rng.random() < 0.2}
        one |= {f"n_{kind}_{days}d": int(rng.integers(0, 3)) for kind in ("hosp", "icu") for days in (30, 90, 365)}
        one |= {"ed_los_hours": 4.22 if row else 500.0, "time_to_icu_transfer_hours": "",
                "next_ed_visit_time_diff_days": ""}  # fmt: skip
        usual = {"temperature": 98.2, "heartrate": 70.0 + row % 40, "resprate": 18.0, "o2sat": 98.0,
                 "sbp": 120.0 + row % 50, "dbp": 71.0, "pain": float(row % 11)}  # fmt: skip
        odd = {1: {"temperature": 37.0}, 2: {"temperature": 986.0}, 4: {"o2sat": 9898.0}, 6: {"sbp": 0.5},
               7: {"pain": 13.0}, 9: dict.fromkeys(usual, "")}.get(row, {})  # fmt: skip
        one |= {f"triage_{name}": {**usual, **odd}[name] for name in ED_VITALS}
        one |= {"triage_acuity": "" if row == 9 else float(1 + row % 5), "chiefcomplaint": "Chest pain, \"worst ever\""}
        one |= {f"chiefcom_{name}": bool(rng.random() < 0.2) for name in CHIEF_COMPLAINTS}
        one |= {f"cci_{name}": int(rng.random() < 0.1) for name in CHARLSON}
        one |= {f"eci_{name}": int(rng.random() < 0.1) for name in ELIXHAUSER}
        one |= {f"ed_{name}_last": {**usual, **odd}[name] for name in ED_VITALS}
        rows.append(one | {"n_med": float(row % 5), "n_medrecon": float(row % 12)})
    return pd.DataFrame(rows)


def mimic_iv_ed_folder(folder: Path) -> Path:
    """The benchmark's `master_dataset.csv`."""
    ed_master().to_csv(folder / "master_dataset.csv", index=False)
    return folder


def mimic_iv_ed_split_folder(folder: Path) -> Path:
    """`train.csv` and `test.csv` as the benchmark makes them: adults, Celsius, no errors, means imputed, by visit."""
    master = ed_master()
    master = master[master["age"] >= 18].copy()
    vitals = [name for name in master if name.split("_")[-1 if "last" not in name else 1] in (*ED_VITALS, "acuity")]
    numbers = master[vitals].apply(pd.to_numeric)
    hot = [name for name in vitals if "temperature" in name]
    numbers[hot] = (numbers[hot] - 32) * 5 / 9
    for name in vitals:
        low, high = (14.2, 47) if name in hot else (0, 390)
        numbers[name] = numbers[name].where(numbers[name].between(low, high))
    train = np.random.default_rng(10).random(len(master)) < 0.8
    master[vitals] = numbers.fillna(numbers[train].mean())
    for name in ED_SCORES:
        master[name] = 1.5
    master[train].to_csv(folder / "train.csv", index=False)
    master[~train].to_csv(folder / "test.csv", index=False)
    return folder


MEDS_EPOCH = np.datetime64("2150-01-01T00:00:00", "us")


def meds_folder(folder: Path) -> Path:
    """A MEDS data set as MIMIC-IV's converter makes it: 70 patients in four shards of three splits, two tasks.

    Static codes without a time, custom columns, a shard whose numeric values are all null, events after the last
    prediction, several predictions per patient, a patient without birth, one whose RACE codes disagree, predictions of
    a patient in a split of its own.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(9)
    subjects = 10_000_032 + 603 * np.arange(70)
    parts = [("train/0", subjects[:25]), ("train/1", subjects[25:48]), ("tuning/0", subjects[48:54]),
             ("held_out/0", subjects[54:])]  # fmt: skip
    day = np.timedelta64(1, "D").astype("timedelta64[us]")
    labels: dict[str, list[Any]] = {"subject_id": [], "prediction_time": [], "boolean_value": []}
    stays: dict[str, list[Any]] = {"subject_id": [], "prediction_time": [], "categorical_value": []}
    for shard, own in parts:
        rows: list[tuple[Any, ...]] = []
        for subject in own.tolist():
            number = (subject - 10_000_032) // 603
            start = MEDS_EPOCH + int(rng.integers(0, 400)) * day
            mine: list[tuple[Any, ...]] = [(subject, None, "GENDER//" + "FM"[number % 2], None)]
            if number != 3:
                mine.append((subject, start - int(rng.integers(20, 90)) * 365 * day, "MEDS_BIRTH", None))
            for stay in range(1 + number % 3):
                time = start + stay * 40 * day
                race = ("WHITE", "BLACK/AFRICAN AMERICAN", "ASIAN - CHINESE", "")[number % 4]
                race = "OTHER" if (number, stay) == (5, 2) else race
                mine += [(subject, time, f"RACE//{race}", None)] if race else []
                sick = bool(rng.random() < 0.4)
                mine.append((subject, time, "HOSPITAL_ADMISSION//EW EMER.//EMERGENCY ROOM", None))
                for _ in range(int(rng.integers(1, 6))):
                    when = time + int(rng.integers(0, 9)) * day // 3
                    mine.append((subject, when, "LAB//50912//mg/dL", float(rng.normal(1 + sick, 0.3))))
                    disease = str(rng.choice(["I501", "I509", "E119"]))
                    mine.append((subject, when, f"DIAGNOSIS//ICD//10//{disease}", None))
                labels["subject_id"].append(subject)
                labels["prediction_time"].append(time + day)
                labels["boolean_value"].append(sick)
                stays["subject_id"].append(subject)
                stays["prediction_time"].append(time + day)
                stays["categorical_value"].append(str(rng.choice(["home", "ward", "icu"])))
                mine.append((subject, time + 9 * day, "HOSPITAL_DISCHARGE//HOME", None))
            mine.append((subject, start + 500 * day, "MEDS_DEATH", None))
            rows += sorted(mine, key=lambda row: (row[1] is not None, row[1] or start))
        columns = list(zip(*rows, strict=True))
        value = pa.array(columns[3], pa.float32())
        if shard == "tuning/0":
            value = pa.nulls(len(rows), pa.float32())
        path = folder / "data" / f"{shard}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({
            "subject_id": pa.array(columns[0], pa.int64()), "time": pa.array(columns[1], pa.timestamp("us")),
            "code": pa.array(columns[2], pa.string()), "numeric_value": value,
            "text_value": pa.nulls(len(rows), pa.large_string()), "hadm_id": pa.array([None] * len(rows), pa.int64()),
        }), path)  # fmt: skip
    stray = {name: values[:1] for name, values in labels.items()} | {"subject_id": [77]}
    empty = {"integer_value": pa.int64(), "float_value": pa.float64(), "categorical_value": pa.string(),
             "boolean_value": pa.bool_()}  # fmt: skip
    labels = {name: values + stray[name] for name, values in labels.items()}
    for task, values in (("mortality/in_icu/first_24h", labels), ("place", stays)):
        table = pa.table(values | {"prediction_time": pa.array(values["prediction_time"], pa.timestamp("us"))})
        for name, kind in empty.items():
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(len(table), kind))
        for part in range(2):
            path = folder / "task_labels" / task / f"{part}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table.slice(part * 70, 70 if part == 0 else len(table)), path)
    (folder / "metadata").mkdir()
    split = {subject: shard.partition("/")[0] for shard, own in parts for subject in own.tolist()} | {77: "excluded"}
    pq.write_table(pa.table({"subject_id": list(split), "split": list(split.values())}),
                   folder / "metadata/subject_splits.parquet")  # fmt: skip
    codes = {"LAB//50912//mg/dL": ["LOINC/2160-0"], "DIAGNOSIS//ICD//10//I501": ["ICD10CM/I50.1"],
             "DIAGNOSIS//ICD//10//I509": ["ICD10CM/I50.9"], "ICD10CM/I50.1": ["ICD10CM/I50"],
             "ICD10CM/I50.9": ["ICD10CM/I50"], "DIAGNOSIS//ICD//10//E119": None, "GENDER//F": []}  # fmt: skip
    pq.write_table(pa.table({"code": list(codes), "description": ["", *["text"] * (len(codes) - 1)],
                             "parent_codes": pa.array(codes.values(), pa.list_(pa.string()))}),
                   folder / "metadata/codes.parquet")  # fmt: skip
    (folder / "metadata/dataset.json").write_text('{"dataset_name": "MIMIC-IV", "meds_version": "0.3.3"}')
    return folder
