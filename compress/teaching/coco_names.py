"""The class names of COCO, which most published detectors know, for `classes: coco`."""

_NAMES = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,"
    "backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,"
    "baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,"
    "banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,"
    "oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
)
_UNUSED = frozenset({0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83})  # category ids without a class

COCO = tuple(_NAMES.split(","))


def by_category_id() -> tuple[str, ...]:
    """Return 91 names, that of category id i at place i; unused ids are named `unused <id>`."""
    names = iter(COCO)
    return tuple(f"unused {one}" if one in _UNUSED else next(names) for one in range(91))


NAMED = {"coco": COCO, "coco91": by_category_id()}
