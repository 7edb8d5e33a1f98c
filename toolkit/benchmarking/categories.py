"""The data sets of a benchmark of several categories, such as all 15 of MVTec AD."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toolkit.data.layouts import find_datasets, load_dataset
from toolkit.data.types import Dataset
from toolkit.data.validate import validate_dataset
from toolkit.errors import DataError, ToolkitError


def load_categories(
    data: str | Path | Dataset | Sequence[str | Path | Dataset],
) -> tuple[list[Dataset], dict[str, ToolkitError]] | Dataset:
    """Read one data set, or several.

    Args:
        data: a data set, its folder, a folder that holds the folders of several, or a list of
            these.

    Returns:
        The data set where `data` is one; else all that can be used, in the order given, and by
        name the error of each that cannot.

    Raises:
        DataError: there is no data set, none can be used, or two have the same name.
    """
    if isinstance(data, Dataset):
        validate_dataset(data)
        return data
    given = [data] if isinstance(data, str | Path) else list(data)
    places: list[Path | Dataset] = []
    for one in given:
        if isinstance(one, Dataset):
            places.append(one)
        else:
            place = Path(one).expanduser()
            places += find_datasets(place) or [place]
    if not places:
        raise DataError("no data sets; give at least one folder")
    if len(given) == 1 and places == [Path(str(given[0])).expanduser()]:
        dataset = load_dataset(places[0])  # type: ignore[arg-type]
        validate_dataset(dataset)
        return dataset
    _refuse_equal_names(places)
    usable: list[Dataset] = []
    errors: dict[str, ToolkitError] = {}
    for found in places:
        try:
            dataset = found if isinstance(found, Dataset) else load_dataset(found)
            validate_dataset(dataset)
        except ToolkitError as error:
            errors[_name(found)] = error
        else:
            usable.append(dataset)
    if not usable:
        raise next(iter(errors.values()))
    return usable, errors


def _refuse_equal_names(places: Sequence[Path | Dataset]) -> None:
    known: dict[str, Path | Dataset] = {}
    for one in places:
        key = _name(one).casefold()  # some file systems do not tell upper from lower case
        if key in known:
            first, second = (p.root if isinstance(p, Dataset) else p for p in (known[key], one))
            raise DataError(
                f"{first} and {second}: two data sets of the same name; rename one of the folders"
            )
        known[key] = one


def _name(one: Path | Dataset) -> str:
    return one.name if isinstance(one, Dataset) else one.resolve().name
