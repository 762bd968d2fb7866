"""The table of tasks: its words are fal's and Florence-2's, its parts fit together."""

import pytest
from pydantic import BaseModel
from transformers import AutoProcessor

from deployments.florence.parsing import ModelAnswer
from deployments.florence.tasks import TASKS, Task
from deployments.florence.vocabulary import Vocabulary
from deployments.images.annotate import RINGS
from deployments.settings import DEMO_CHECKPOINT
from tests.florence.questions import input_of

each_task = pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.path)


def test_sentences_are_those_of_the_library() -> None:
    """Each marker has the sentence that the library's processor puts in its place."""
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)  # type: ignore[no-untyped-call]
    library = processor.task_prompts_without_inputs | processor.task_prompts_with_input
    library = {marker: sentence.replace("{input}", "{}") for marker, sentence in library.items()}
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
    """The parser of an endpoint fits its schema."""
    answer = ModelAnswer((), Vocabulary(DEMO_CHECKPOINT), (10, 10))
    results = task.parse(answer, input_of(task))
    assert isinstance(results, task.results)
    task.output.model_validate(task.output_of(results))


@each_task
def test_what_is_drawn_can_be_drawn(task: Task) -> None:
    """A task draws a picture if its output has one, and its shapes can be drawn."""
    assert (task.draw is not None) == ("image" in task.output.model_fields)
    if task.draw:
        location = Vocabulary(DEMO_CHECKPOINT).id("<loc_7>")
        word = Vocabulary(DEMO_CHECKPOINT).encode("circle")[1]
        other = Vocabulary(DEMO_CHECKPOINT).id("<loc_900>")
        places = [location, location, other, location, other, other, location, other]
        answer = ModelAnswer((word, *places), Vocabulary(DEMO_CHECKPOINT), (10, 10))
        results = task.parse(answer, input_of(task))
        assert {shape.kind for shape in task.draw(results)} <= set(RINGS)


@each_task
def test_every_task_has_a_summary(task: Task) -> None:
    """The summary is a heading: it begins with a capital and has no full stop."""
    assert task.summary[0].isupper()
    assert not task.summary.endswith(".")


MODELS = sorted({model for task in TASKS.values() for model in (task.input, task.output)}, key=str)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_is_described(model: type[BaseModel]) -> None:
    """The published schema has a sentence for each field."""
    schema = model.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    fields = [field for part in parts for field in part["properties"].values()]
    assert all(field.get("description") for field in fields)
