"""Example documents for OpenAPI: small, with invented numbers.

As in real answers, probabilities sum to 1, and the mean evidence plus the bias is the logit.
"""

from typing import Any

from model.contract import CLASSES

Json = dict[str, Any]

REQUEST_ID = "0f8c2b6e5d7a4c1b9e3f6a7d8c9b0a1e"
_UNSUPPORTED = ["ABE", "FGC"]
_LIKELY = {"PMO": 0.93, "MYB": 0.05, "BLA": 0.02}

MODEL: Json = {
    "name": "example",
    "version": "1.0.0",
    "sha256": "5e" * 32,
    "manifest_sha256": "3f" * 32,
    "unsupported": _UNSUPPORTED,
}

READING: Json = {
    "prediction": {"code": "PMO", "name": "Promyelocyte", "probability": 0.93, "supported": True, "set": ["PMO"]},
    "decision": "review",
    "reasons": [{"code": "out_of_focus", "detail": "out of focus: refocus and take the picture again"}],
    "novelty": {"score": 12.5, "p_value": 0.51},
    "top": [{"code": code, "probability": probability} for code, probability in _LIKELY.items()],
    "probabilities": {cell_class.code: _LIKELY.get(cell_class.code, 0.0) for cell_class in CLASSES},
    "attention": {
        "height": 2,
        "width": 2,
        "scales": [
            {"kernel": "3-5-1", "values": [[0.0, 0.25], [0.5, 1.0]]},
            {"kernel": "5-7-1", "values": [[0.0, 0.5], [0.75, 1.0]]},
            {"kernel": "7-9-1", "values": [[0.25, 0.0], [1.0, 0.5]]},
        ],
    },
    "evidence": [
        {"code": "PMO", "logit": 4.5, "bias": 0.5, "height": 2, "width": 2, "values": [[-1.0, 3.0], [6.0, 8.0]]},
    ],
}

CLASSIFY_ANSWER: Json = {"request_id": REQUEST_ID, "model": MODEL, **READING}

PROBLEM: Json = {
    "type": "urn:problem-type:marrowlens:undecodable-picture",
    "title": "The picture cannot be decoded",
    "status": 422,
    "detail": "the JPEG ends before its last row",
    "request_id": REQUEST_ID,
}

_WITHOUT_MAPS = {key: value for key, value in READING.items() if key not in ("attention", "evidence")}
BATCH_ITEMS: list[Json] = [
    {"index": 0, "name": "cell-1.jpg", "result": _WITHOUT_MAPS},
    {"index": 1, "name": "cell-2.jpg", "problem": PROBLEM},
]


def _interval(code: str) -> Json:
    """The 95 % Wilson interval of one cell of one, or of none of one; none for an unsupported class."""
    if code in _UNSUPPORTED:
        return {}
    return {"low": 20.65, "high": 100.0} if code == "PMO" else {"low": 0.0, "high": 79.35}


BATCH_SUMMARY: Json = {
    "request_id": REQUEST_ID,
    "model": MODEL,
    "pictures": 2,
    "problems": 1,
    "differential": {
        "counted": 1,
        "counted_unsupported": 0,
        "classes": [
            {
                "code": cell_class.code,
                "name": cell_class.name,
                "count": int(cell_class.code == "PMO"),
                "percent": 100.0 if cell_class.code == "PMO" else 0.0,
                **_interval(cell_class.code),
                "supported": cell_class.code not in _UNSUPPORTED,
            }
            for cell_class in CLASSES
            if cell_class.countable == "always"
        ],
        "excluded": [
            {
                "code": cell_class.code,
                "name": cell_class.name,
                "count": 0,
                "supported": cell_class.code not in _UNSUPPORTED,
            }
            for cell_class in CLASSES
            if cell_class.countable != "always"
        ],
        "problems": 1,
        "count_other": False,
        "unsupported": _UNSUPPORTED,
    },
    "decisions": {"accept": 0, "review": 1, "reject": 0},
}

BATCH_ANSWER: Json = {**BATCH_SUMMARY, "results": BATCH_ITEMS}
