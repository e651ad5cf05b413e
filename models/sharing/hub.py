"""The Hugging Face Hub, by its own client: one repository holds one predictor.

The client takes the token from HF_TOKEN or from its own login, and the server from HF_ENDPOINT.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from models.errors import ModelError
from models.sharing.manifest import ALLOWED, MANIFEST, Manifest, check_names

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX = "hf:"


class Repository(NamedTuple):
    """A repository, and a branch, tag or commit of it; the newest if `revision` is None."""

    repo_id: str
    revision: str | None

    @classmethod
    def of(cls, source: str) -> Repository:
        """From how it is typed.

        Raises
        ------
        ModelError
            If it is typed otherwise.

        Examples
        --------
        >>> Repository.of("hf:group/model@v1.0")
        Repository(repo_id='group/model', revision='v1.0')
        """
        name = r"[\w][\w.-]*"
        match = re.fullmatch(rf"{PREFIX}({name}/{name})(?:@([\w./-]+))?", source, re.ASCII)
        if match is None:
            raise ModelError(f"{source!r}: not a repository; it is hf:owner/repository[@revision]")
        return cls(*match.groups())


def is_on_hub(source: str) -> bool:
    """Whether a source or target is a repository rather than a folder."""
    return source.startswith(PREFIX)


def token() -> str | None:
    """The token that the client uses, which must never be shown; None without one."""
    with _client():
        from huggingface_hub import get_token

        return get_token()


def download(source: str, folder: Path, announce: Callable[[str], None]) -> str:
    """Download the files of a manifest, and nothing else.

    Parameters
    ----------
    source : str
        See :class:`Repository`.
    folder : Path
        An empty one.
    announce : callable
        Gets one line when a step begins.

    Returns
    -------
    str
        Hash of the commit.

    Raises
    ------
    ModelError
        If there is no such repository, it has files that no predictor has or that are too
        large, or the hub cannot be reached.
    """
    repository = Repository.of(source)
    with _client(source) as api:
        info = api.model_info(repository.repo_id, revision=repository.revision, files_metadata=True)
        sizes = {each.rfilename: each.size for each in info.siblings or []}
        check_names(sizes, source)
        if MANIFEST not in sizes:
            raise ModelError(f"{source}: has no {MANIFEST}, so it is no model of this program")

        def get(name: str) -> None:
            api.hf_hub_download(repository.repo_id, name, revision=info.sha, local_dir=folder)

        get(MANIFEST)
        files = Manifest.read(folder).files
        if missing := sorted(files.keys() - sizes.keys()):
            raise ModelError(f"{source}: has no {missing[0]}, which its {MANIFEST} lists")
        size = sum(file.size for file in files.values()) / 1e6
        announce(f"Downloading {len(files)} files, {size:.1f} MB, of {source}")
        for name in files:
            get(name)
    return str(info.sha)


def upload(folder: Path, target: str, private: bool, message: str) -> str:
    """Make one commit of a folder; files of an earlier predictor that it lacks are removed.

    Parameters
    ----------
    folder : Path
    target : str
        See :class:`Repository`; a revision is a branch that is there.
    private : bool
        Of a repository that does not exist yet.
    message : str
        Of the commit.

    Returns
    -------
    str
        Address of the commit.

    Raises
    ------
    ModelError
        If the hub refuses or cannot be reached.
    """
    repository = Repository.of(target)
    with _client(target) as api:
        api.create_repo(repository.repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository.repo_id,
            folder_path=folder,
            revision=repository.revision,
            commit_message=message,
            delete_patterns=sorted(ALLOWED),
        )
    return str(commit.commit_url)


@contextmanager
def _client(what: str = "the hub") -> Iterator[HfApi]:
    """The hub's client, whose errors end in one line."""
    try:
        from huggingface_hub import HfApi, errors
        from huggingface_hub.utils import disable_progress_bars
        from huggingface_hub.utils.logging import set_verbosity_error
    except ImportError:
        raise ModelError(
            f"{what}: needs huggingface_hub; pip install 'edos-screening[hub]' brings it"
        ) from None
    disable_progress_bars()
    set_verbosity_error()
    try:
        yield HfApi(library_name="edos-screening", library_version=version("edos-screening"))
    except ModelError:
        raise
    except errors.GatedRepoError:
        raise ModelError(f"{what}: the hub asks you to accept its terms in a browser") from None
    except errors.RevisionNotFoundError:
        raise ModelError(f"{what}: the hub has no such revision") from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"{what}: the hub has no such repository, or HF_TOKEN does not let you see it"
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise ModelError(
                f"{what}: the hub refuses ({status}); HF_TOKEN or `hf auth login` needs a token "
                "that may do this"
            ) from None
        raise ModelError(f"{what}: the hub answers {status}; try again later") from None
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, errors.HTTPError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{what}: the hub cannot be reached ({reason[:200]})") from None
    except (ValueError, RuntimeError) as error:  # of the card's head, or an upload that broke off
        reason = " ".join(f"{error} {error.__cause__ or ''}".split())
        raise ModelError(f"{what}: the hub's client stopped ({reason[:200]})") from None
