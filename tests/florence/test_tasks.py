"""The table of tasks: its words are fal's and Florence-2's, its parts fit together."""

import pytest
from transformers import AutoProcessor

from deployments.florence.answer import Answer
from deployments.florence.schemas import BoundingBoxes, BoundingBoxOutput, TextOutput
from deployments.florence.tasks import TASKS, Task
from deployments.florence.vocabulary import Vocabulary
from deployments.settings import DEMO_CHECKPOINT

each_task = pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.path)


def test_sentences_are_those_of_the_library() -> None:
    """Each marker has the sentence that the library's processor puts in its place."""
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)  # type: ignore[no-untyped-call]
    library = processor.task_prompts_without_inputs
    assert {task.marker: library[task.marker] for task in TASKS.values()} == {
        task.marker: task.sentence for task in TASKS.values()
    }


@each_task
def test_endpoints_are_named_as_at_fal(task: Task) -> None:
    """A path is the marker in lower case under the application; OD is object-detection there."""
    word = task.marker.strip("<>").lower().replace("_", "-")
    assert (
        task.endpoint == f"fal-ai/florence-2-large/{ {'od': 'object-detection'}.get(word, word) }"
    )


@each_task
def test_what_is_parsed_fits_the_output(task: Task) -> None:
    """The parser of an endpoint makes what its schema promises."""
    results = task.parse(Answer((), Vocabulary(DEMO_CHECKPOINT), (10, 10)))
    assert task.output is (BoundingBoxOutput if isinstance(results, BoundingBoxes) else TextOutput)
    task.output.model_validate({"results": results})


@each_task
def test_every_task_has_a_summary(task: Task) -> None:
    """The summary is a heading: it begins with a capital and has no full stop."""
    assert task.summary[0].isupper()
    assert not task.summary.endswith(".")


@pytest.mark.parametrize("model", [BoundingBoxOutput, TextOutput], ids=lambda model: model.__name__)
def test_every_field_is_described(model: type[BoundingBoxOutput | TextOutput]) -> None:
    """The published schema has a sentence for each field."""
    schema = model.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    fields = [field for part in parts for field in part["properties"].values()]
    assert all(field.get("description") for field in fields)
