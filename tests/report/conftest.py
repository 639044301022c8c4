"""One analysed study for all tests of this room: the analysis is the slow part."""

from __future__ import annotations

import pytest

from dptrain.report.analysis import analyse
from dptrain.report.document import Document
from dptrain.report.results import StudyResult
from tests.report.fake_study import FakeStudy, document_for


@pytest.fixture(scope="session")
def result() -> StudyResult:
    return analyse(FakeStudy(), details=True)


@pytest.fixture(scope="session")
def document(result: StudyResult) -> Document:
    return document_for(result)
