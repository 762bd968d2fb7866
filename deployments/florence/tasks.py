"""The table of tasks: one row says everything that sets a task apart.

Markers and sentences are Florence-2's own, as in transformers' Florence2Processor;
paths and schemas are fal's.

A new task is a row here, with schemas and a parser where it needs new ones. Nothing else knows
the tasks by name: the endpoints, the OpenAPI document, the prompts, the answers and the pictures
are made from the rows.
"""

from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from pydantic import BaseModel

from deployments.florence import parsing, scores
from deployments.florence.parsing import ModelAnswer
from deployments.florence.schemas import (
    BoundingBoxOutput,
    ImageInput,
    ImageWithTextInput,
    ImageWithUserCoordinatesInput,
    OCRBoundingBoxOutput,
    PolygonsOutput,
    Shapes,
    TextOutput,
)
from deployments.florence.sequence import Grammar

APP = "fal-ai/florence-2-large"


def no_words(_input: Any, _size: tuple[int, int]) -> str:
    """For a sentence that is the same for every input."""
    return ""


def text_words(input: ImageWithTextInput, _size: tuple[int, int]) -> str:
    return input.text_input.strip()


def region_words(input: ImageWithUserCoordinatesInput, size: tuple[int, int]) -> str:
    """The location tokens of the region; one beyond the image is the image's nearest edge."""
    region, (width, height) = input.region, size
    sides = ((region.x1, width), (region.y1, height), (region.x2, width), (region.y2, height))
    return "".join(f"<loc_{location_bin(pixel, side)}>" for pixel, side in sides)


def location_bin(pixel: int, side: int) -> int:
    """The bin that a pixel's edge lies in, as the processor of the family says it to the model."""
    return min(max(pixel * parsing.NUM_BINS // side, 0), parsing.NUM_BINS - 1)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One endpoint.

    Args:
        path: its name under the application.
        marker: the task's name in transformers.
        sentence: the prompt; `{}` stands for the `words`.
        input: the model of a request's body.
        output: the model of the answer, whose `results` are what `parse` makes.
        parse: turns an answer, and the input that it is for, into results. They have a length,
            which grows while the answer is written.
        draw: the shapes to draw on the picture, which `images.annotate` knows by their kind; a
            task without it has no picture.
        words: what an input says, given also the (width, height) of its image in pixels.
        grammar: what an answer looks like, where decoding is constrained.
    """

    path: str
    marker: str
    sentence: str
    summary: str
    input: type[ImageInput]
    output: type[BaseModel]
    parse: Callable[[ModelAnswer, Any], Any]
    draw: Callable[[Any], Iterable[Any]] | None = None
    words: Callable[[Any, tuple[int, int]], str] = no_words
    grammar: Grammar = Grammar.FREE

    @property
    def endpoint(self) -> str:
        """The endpoint id as fal's clients name it."""
        return f"{APP}/{self.path}"

    @property
    def results(self) -> Any:
        return self.output.model_fields["results"].annotation

    def prompt(self, input: Any, size: tuple[int, int]) -> str:
        """The sentence that asks for `input` about an image of this (width, height)."""
        return self.sentence.replace("{}", self.words(input, size))

    def read(self, answer: ModelAnswer, input: ImageInput) -> Any:
        """The results in an answer, without those below the input's `min_score`."""
        results = self.parse(answer, input)
        if isinstance(results, Shapes) and input.min_score is not None:
            return results.at_least(input.min_score)
        return results

    def score(self, answer: ModelAnswer) -> dict[str, float]:
        """The score of an answer in words as a field of the output, where scores are wanted."""
        if answer.scores is None or "score" not in self.output.model_fields:
            return {}
        return {"score": scores.of_text(answer.scores)}

    def output_of(self, results: Sized, **others: Any) -> dict[str, Any]:
        """The answer for the client as JSON values; it has the other fields that are given."""
        return self.output(results=results, **others).model_dump(exclude_unset=True)


_ROWS = (
    Task(
        path="region-proposal",
        marker="<REGION_PROPOSAL>",
        sentence="Locate the region proposals in the image.",
        summary="Find the regions that hold something",
        input=ImageInput,
        output=BoundingBoxOutput,
        parse=parsing.unlabelled_boxes,
        draw=attrgetter("bboxes"),
        grammar=Grammar.BOXES,
    ),
    Task(
        path="object-detection",
        marker="<OD>",
        sentence="Locate the objects with category name in the image.",
        summary="Find objects and name their categories",
        input=ImageInput,
        output=BoundingBoxOutput,
        parse=parsing.labelled_boxes,
        draw=attrgetter("bboxes"),
        grammar=Grammar.LABELLED,
    ),
    Task(
        path="dense-region-caption",
        marker="<DENSE_REGION_CAPTION>",
        sentence="Locate the objects in the image, with their descriptions.",
        summary="Find objects and describe each",
        input=ImageInput,
        output=BoundingBoxOutput,
        parse=parsing.labelled_boxes,
        draw=attrgetter("bboxes"),
        grammar=Grammar.LABELLED,
    ),
    Task(
        path="caption-to-phrase-grounding",
        marker="<CAPTION_TO_PHRASE_GROUNDING>",
        sentence="Locate the phrases in the caption: {}",
        summary="Find what the phrases of a caption speak of",
        input=ImageWithTextInput,
        output=BoundingBoxOutput,
        parse=parsing.phrase_boxes,
        draw=attrgetter("bboxes"),
        words=text_words,
        grammar=Grammar.LABELLED,
    ),
    Task(
        path="open-vocabulary-detection",
        marker="<OPEN_VOCABULARY_DETECTION>",
        sentence="Locate {} in the image.",
        summary="Find what the words name",
        input=ImageWithTextInput,
        output=BoundingBoxOutput,
        parse=parsing.boxes_or_polygons,
        draw=attrgetter("bboxes"),
        words=text_words,
    ),
    Task(
        path="referring-expression-segmentation",
        marker="<REFERRING_EXPRESSION_SEGMENTATION>",
        sentence="Locate {} in the image with mask",
        summary="Outline what the words describe",
        input=ImageWithTextInput,
        output=PolygonsOutput,
        parse=parsing.polygons,
        draw=attrgetter("polygons"),
        words=text_words,
    ),
    Task(
        path="region-to-segmentation",
        marker="<REGION_TO_SEGMENTATION>",
        sentence="What is the polygon mask of region {}",
        summary="Outline what is in a region",
        input=ImageWithUserCoordinatesInput,
        output=PolygonsOutput,
        parse=parsing.polygons,
        draw=attrgetter("polygons"),
        words=region_words,
    ),
    Task(
        path="ocr-with-region",
        marker="<OCR_WITH_REGION>",
        sentence="What is the text in the image, with regions?",
        summary="Read text, and find where each line stands",
        input=ImageInput,
        output=OCRBoundingBoxOutput,
        parse=parsing.quads,
        draw=attrgetter("quad_boxes"),
    ),
    Task(
        path="caption",
        marker="<CAPTION>",
        sentence="What does the image describe?",
        summary="Describe the image in a sentence",
        input=ImageInput,
        output=TextOutput,
        parse=parsing.text,
    ),
    Task(
        path="detailed-caption",
        marker="<DETAILED_CAPTION>",
        sentence="Describe in detail what is shown in the image.",
        summary="Describe the image in detail",
        input=ImageInput,
        output=TextOutput,
        parse=parsing.text,
    ),
    Task(
        path="more-detailed-caption",
        marker="<MORE_DETAILED_CAPTION>",
        sentence="Describe with a paragraph what is shown in the image.",
        summary="Describe the image in a paragraph",
        input=ImageInput,
        output=TextOutput,
        parse=parsing.text,
    ),
    Task(
        path="ocr",
        marker="<OCR>",
        sentence="What is the text in the image?",
        summary="Read the text in the image",
        input=ImageInput,
        output=TextOutput,
        parse=parsing.text,
    ),
    Task(
        path="region-to-category",
        marker="<REGION_TO_CATEGORY>",
        sentence="What is the region {}?",
        summary="Name the category of what is in a region",
        input=ImageWithUserCoordinatesInput,
        output=TextOutput,
        parse=parsing.text,
        words=region_words,
    ),
    Task(
        path="region-to-description",
        marker="<REGION_TO_DESCRIPTION>",
        sentence="What does the region {} describe?",
        summary="Describe what is in a region",
        input=ImageWithUserCoordinatesInput,
        output=TextOutput,
        parse=parsing.text,
        words=region_words,
    ),
)

TASKS: dict[str, Task] = {task.path: task for task in _ROWS}
