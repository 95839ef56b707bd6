"""What this project uses of other libraries that they do not promise to keep: one list, beside the versions it is for.

Attributes without documentation, and the texts of errors, which are often all that tells one failure from another. They
can change with any release, so every entry is tested by ``tests/unit/test_private_apis.py``: who raises a version there
is told what is gone and where it is used. Code that needs one more adds it here; the same test finds what is missing.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class PrivateApi:
    """Names or texts of one library that are used for one purpose.

    Attributes:
        library: as in ``pyproject.toml``; "python" is the standard library.
        kind: ``attribute``, or ``text`` that is looked for in the message of an error.
        owner: the object that has the attributes, or what the error comes from.
        names: the attributes, or parts of the texts.
        where: files of the project that use them, by name.
        why: what they are for, and why there is no public way.
    """

    library: str
    kind: Literal["attribute", "text"] = "attribute"
    owner: str
    names: tuple[str, ...]
    where: tuple[str, ...]
    why: str


# Library → the versions for which the list is right; the same as in pyproject.toml.
VERSIONS = {
    "python": ">=3.10",
    "torch": ">=2.6",
    "deepspeed": ">=0.19.8,<0.20",
    "ray": ">=2.40",
    "tensorboard": ">=2.16",
}

DEEPSPEED = (
    PrivateApi(
        library="deepspeed",
        owner="deepspeed.ops",
        names=("__compatible_ops__",),
        where=("ranks.py",),
        why="Its shared-memory operator is compiled at start, takes half a minute and is not used; no setting says no.",
    ),
    PrivateApi(
        library="deepspeed",
        owner="engine",
        names=("basic_optimizer",),
        where=("deepspeed_model.py",),
        why="torch's optimizer inside DeepSpeed's holds the moments that a checkpoint saves by parameter.",
    ),
    PrivateApi(
        library="deepspeed",
        owner="optimizer of stage 0 in bf16",
        names=("fp16_groups", "fp32_groups"),
        where=("deepspeed_state.py",),
        why="Which fp32 master belongs to which parameter; the public accessors give copies of whole tensors.",
    ),
    PrivateApi(
        library="deepspeed",
        owner="optimizer of stages 1 and 2",
        names=(
            "averaged_gradients",
            "all_grad_tensors",
            "micro_step_id",
            "cpu_offload",
            "_release_preflattened_grad_buffers",
            "reset_cpu_buffers",
        ),
        where=("deepspeed_model.py",),
        why="Gradients of a step that is not taken must be forgotten; zero_grad leaves what was reduced already.",
    ),
    PrivateApi(
        library="deepspeed",
        owner="optimizer of stages 1 and 2",
        names=("update_lp_params",),
        where=("deepspeed_state.py",),
        why="Brings restored fp32 weights to what the model computes with. It is done by no public call but a step.",
    ),
    PrivateApi(
        library="deepspeed",
        owner="parameter at stages 1 and 2",
        names=("_hp_mapping", "lp_fragment_address", "hp_fragment_address", "param_group_index"),
        where=("deepspeed_state.py",),
        why="Which run of elements of a parameter this rank holds, and where; safe_get_full_fp32_param does not say.",
    ),
    PrivateApi(
        library="deepspeed",
        owner="optimizer of stage 3",
        names=("averaged_gradients", "grad_partitions_flat_buffer", "offload_optimizer", "reset_cpu_buffers"),
        where=("deepspeed_model.py",),
        why="Gradients of a step that is not taken must be forgotten, and those that would move an unused parameter.",
    ),
    PrivateApi(
        library="deepspeed",
        owner="optimizer of stage 3",
        names=(
            "grad_position",
            "get_param_id",
            "fp32_partitioned_groups_flat",
            "sub_group_to_group_id",
            "_partition_all_parameters",
            "_reassign_or_swap_out_partitioned_parameters",
            "persistent_parameters",
        ),
        where=("deepspeed_state.py",),
        why="Which run of elements of a parameter this rank holds, and how restored ones reach the model.",
    ),
    PrivateApi(
        library="deepspeed",
        owner="modules of its launchers",
        names=("deepspeed.launcher.runner", "deepspeed.launcher.launch", "--node_rank"),
        where=("launcher.py",),
        why="A rank finds on the command lines above it whether its launcher still lives; nothing tells it.",
    ),
)

TORCH = (
    PrivateApi(
        library="torch",
        owner="torch.nn.Module",
        names=("_apply",),
        where=("encodings.py",),
        why="Every cast goes through it; a buffer that must stay fp32 has no other way to refuse.",
    ),
    PrivateApi(
        library="torch",
        owner="torch.ops.mkldnn",
        names=("_linear_pointwise",),
        where=("kernels.py",),
        why="oneDNN's product in fp32 is twice as fast as MKL's on some processors; torch takes MKL's. Used if there.",
    ),
    PrivateApi(
        library="torch",
        owner="torch.ops.aten",
        names=("native_layer_norm_backward", "gelu_backward"),
        where=("kernels.py",),
        why="Backward passes by hand call them; torch has no documented function for a backward pass alone.",
    ),
    PrivateApi(
        library="torch",
        kind="text",
        owner="a loader process that was killed",
        names=("DataLoader worker (pid",),
        where=("loader.py",),
        why="torch raises a bare RuntimeError; a loader process that dies is replaced, other errors end the run.",
    ),
    PrivateApi(
        library="torch",
        kind="text",
        owner="an error that a loader process raised itself",
        names=("Caught ",),
        where=("loader.py",),
        why="A ConnectionError of the process and one of its work have the same type.",
    ),
    PrivateApi(
        library="torch",
        kind="text",
        owner="shared memory that has no room",
        names=("shared memory", "/torch_", "(shm)"),
        where=("system_limits.py",),
        why="torch raises a bare RuntimeError.",
    ),
    PrivateApi(
        library="torch",
        kind="text",
        owner="a loader process that died of a full shared memory",
        names=("Bus error",),
        where=("system_limits.py",),
        why="torch raises a bare RuntimeError.",
    ),
    PrivateApi(
        library="torch",
        kind="text",
        owner="a port that is taken",
        names=("EADDRINUSE",),
        where=("system_limits.py",),
        why="DistNetworkError has no number of the system's error.",
    ),
    PrivateApi(
        library="torch",
        kind="text",
        owner="a file that cannot be opened because too many are",
        names=("Too many open files",),
        where=("system_limits.py",),
        why="torch raises a bare RuntimeError.",
    ),
    PrivateApi(
        library="torch",
        kind="text",
        owner="the allocator of the host",
        names=("allocate memory",),
        where=("devices.py",),
        why="torch raises a bare RuntimeError for the host's memory, and torch.OutOfMemoryError for a GPU's only.",
    ),
    PrivateApi(
        library="torch",
        kind="text",
        owner="libraries of a GPU",
        names=("out[ _]of[ _]", "_ALLOC", "_NOT_INITIALIZED"),
        where=("devices.py",),
        why="CUDA's runtime, cuBLAS, cuDNN and NCCL fail with a bare RuntimeError where memory is full.",
    ),
    PrivateApi(
        library="torch",
        kind="text",
        owner="gloo when another rank is gone",
        names=("Connection closed by peer", "Connection reset by peer", "Broken pipe"),
        where=("pretrain.py",),
        why="A rank that lost another one stops quietly, so that the first error is read; the type is RuntimeError.",
    ),
    PrivateApi(
        library="torch",
        kind="text",
        owner="NCCL when another rank is gone",
        names=("remote process exited",),
        where=("pretrain.py",),
        why="As for gloo.",
    ),
)

OTHERS = (
    PrivateApi(
        library="ray",
        owner="ray.exceptions.RayTaskError",
        names=("cause",),
        where=("ray_tasks.py",),
        why="The error of a task as it was raised there: what the user can mend is raised as itself.",
    ),
    PrivateApi(
        library="tensorboard",
        owner="tensorboard.compat.proto",
        names=("event_pb2", "summary_pb2"),
        where=("tensorboard.py", "event_files.py"),
        why="The messages of an event file. SummaryWriter of torch buffers, has threads and hides write errors.",
    ),
    PrivateApi(
        library="tensorboard",
        owner="tensorboard.summary.writer.record_writer",
        names=("RecordWriter",),
        where=("tensorboard.py",),
        why="A record with its checksums, for a file that we write ourselves.",
    ),
    PrivateApi(
        library="tensorboard",
        owner="tensorboard.compat.tensorflow_stub.pywrap_tensorflow",
        names=("masked_crc32c",),
        where=("event_files.py",),
        why="The checksum of a record; its readers skip damage instead of naming it.",
    ),
    PrivateApi(
        library="tensorboard",
        owner="tensorboard.util.tensor_util",
        names=("make_ndarray",),
        where=("event_files.py",),
        why="Scalars of newer writers are tensors.",
    ),
    PrivateApi(
        library="python",
        owner="multiprocessing.queues.Queue",
        names=("_on_queue_feeder_error",),
        where=("loader.py",),
        why="The thread that sends batches prints an error and leaves the batch out; the rank would wait for ever.",
    ),
    PrivateApi(
        library="python",
        owner="multiprocessing.forkserver",
        names=("ensure_running",),
        where=("loader.py",),
        why="The server has to start while signals are ignored, before the first loader process asks for it.",
    ),
    PrivateApi(
        library="python",
        kind="text",
        owner="multiprocessing when a descriptor does not arrive",
        names=("received 0 items of ancdata",),
        where=("system_limits.py",),
        why="It is how too many open files show in the process that receives a batch; the type is RuntimeError.",
    ),
    PrivateApi(
        library="python",
        owner="argparse.ArgumentParser",
        names=("_actions", "_option_string_actions"),
        where=("command_line.py",),
        why="Hints for a misspelt flag need the flags that there are; argparse lists them nowhere else.",
    ),
    PrivateApi(
        library="python",
        owner="argparse",
        names=("_SubParsersAction",),
        where=("command_line.py",),
        why="The verbs of a command for its help.",
    ),
    PrivateApi(
        library="python",
        kind="text",
        owner="argparse when a word is not understood",
        names=("invalid choice: ", "choose from ", "unrecognized"),
        where=("command_line.py",),
        why="The hint names the nearest word; ArgumentParser.error is given a text and nothing else.",
    ),
)

PRIVATE_APIS = (*DEEPSPEED, *TORCH, *OTHERS)
