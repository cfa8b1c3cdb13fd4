"""`GET /model` and `GET /classes`: which model answers, and which classes it knows."""

from fastapi import APIRouter

from service.api.openapi import problem_responses
from service.api.responses import class_table, description
from service.api.schemas import ClassTable, ModelDescription
from service.api.state import RunningService

router = APIRouter(tags=["model"], responses=problem_responses(503))


@router.get("/model", summary="The model's manifest")
async def model(service: RunningService) -> ModelDescription:
    """Everything the model says of itself: data, split, figures with their intervals, limits, hash."""
    classifier = service.serving()
    return description(classifier.manifest, classifier.provider)


@router.get("/classes", summary="The classes, in logit order")
async def classes(service: RunningService) -> ClassTable:
    """The class table, with how many pictures each class was learned from and whether anything is claimed for it."""
    return class_table(service.serving().manifest)
