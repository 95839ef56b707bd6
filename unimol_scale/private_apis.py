"""Undocumented features of other libraries that this project uses: one list, with the versions it is valid for.

It contains attributes without documentation, and error texts, which are often the only way to tell failures apart. They
may change with any release, so ``tests/unit/test_private_apis.py`` checks every entry: whoever raises a version there
learns what is gone and where it is used. Code that needs another feature adds it here; the same test finds omissions.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class PrivateApi:
    """Names or texts of one library that are used for one purpose.

    Attributes:
        library: as in ``pyproject.toml``; "python" is the standard library.
        kind: ``attribute``, or ``text`` that is searched for in an error message.
        owner: the object that has the attributes, or what the error comes from.
        names: the attributes, or parts of the texts.
        where: files of the project that use them, by name.
        why: what they are needed for, and why there is no public way.
    """

    library: str
    kind: Literal["attribute", "text"] = "attribute"
    owner: str
    names: tuple[str, ...]
    where: tuple[str, ...]
    why: str


# Library → the versions for which the list is valid, as in pyproject.toml.
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
        why="Compiling its unused shared-memory operator takes half a minute at start, and no setting turns it off.",
    ),
    PrivateApi(
        library="deepspeed",
        owner="deepspeed.runtime.zero.muon.muon_optimizer",
        names=("MuonWithAuxAdam",),
        where=("deepspeed_model.py",),
        why="Imported before DeepSpeed does it, so that no rank loads torch's compiler for a Muon it never uses.",
    ),
    PrivateApi(
        library="deepspeed",
        owner="engine",
        names=("basic_optimizer",),
        where=("deepspeed_model.py",),
        why="The torch optimizer inside DeepSpeed's holds the moments, which a checkpoint saves by parameter.",
    ),
    PrivateApi(
        library="deepspeed",
        owner="optimizer of stage 0 in bf16",
        names=("fp16_groups", "fp32_groups"),
        where=("deepspeed_state.py",),
        why="Maps fp32 master weights to parameters; the public accessors return copies of whole tensors.",
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
        why="Gradients of a skipped step must be dropped; zero_grad keeps those already reduced.",
    ),
    PrivateApi(
        library="deepspeed",
        owner="optimizer of stages 1 and 2",
        names=("update_lp_params",),
        where=("deepspeed_state.py",),
        why="Copies restored fp32 weights into the weights the model uses; the only public call that does so is step.",
    ),
    PrivateApi(
        library="deepspeed",
        owner="parameter at stages 1 and 2",
        names=("_hp_mapping", "lp_fragment_address", "hp_fragment_address", "param_group_index"),
        where=("deepspeed_state.py",),
        why="Which elements of a parameter this rank holds, and where; safe_get_full_fp32_param does not tell.",
    ),
    PrivateApi(
        library="deepspeed",
        owner="optimizer of stage 3",
        names=("averaged_gradients", "grad_partitions_flat_buffer", "offload_optimizer", "reset_cpu_buffers"),
        where=("deepspeed_model.py",),
        why="Gradients of a skipped step must be dropped, as must those that would move an unused parameter.",
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
        why="Which elements of a parameter this rank holds, and how restored ones are copied into the model.",
    ),
    PrivateApi(
        library="deepspeed",
        owner="modules of its launchers",
        names=("deepspeed.launcher.runner", "deepspeed.launcher.launch", "--node_rank"),
        where=("launcher.py",),
        why="A rank recognises its launcher by the command lines of its parent processes; nothing else tells it.",
    ),
)

TORCH = (
    PrivateApi(
        library="torch",
        owner="torch.nn.Module",
        names=("_apply",),
        where=("encodings.py",),
        why="Every cast goes through it; a buffer that must stay fp32 can only refuse the cast here.",
    ),
    PrivateApi(
        library="torch",
        owner="torch",
        names=("_foreach_add_", "_foreach_copy_", "_foreach_zero_"),
        where=("graphed_micro_batches.py",),
        why="Gradients are added up by a few kernels instead of one per parameter, as in torch's own optimizers.",
    ),
    PrivateApi(
        library="torch",
        owner="torch.ops.mkldnn",
        names=("_linear_pointwise",),
        where=("kernels.py",),
        why="oneDNN's fp32 product is twice as fast on some processors as MKL's, which torch uses. Used if present.",
    ),
    PrivateApi(
        library="torch",
        owner="torch.ops.aten",
        names=("native_layer_norm_backward", "gelu_backward"),
        where=("kernels.py",),
        why="Hand-written backward passes call them; torch documents no function for a backward pass alone.",
    ),
    PrivateApi(
        library="torch",
        kind="text",
        owner="a loader process that was killed",
        names=("DataLoader worker (pid",),
        where=("loader.py",),
        why="torch raises a bare RuntimeError; a dead loader process is replaced, but other errors end the run.",
    ),
    PrivateApi(
        library="torch",
        kind="text",
        owner="an error that a loader process raised itself",
        names=("Caught ",),
        where=("loader.py",),
        why="A ConnectionError of the process itself and one raised by its work have the same type.",
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
        why="DistNetworkError does not carry the system's error number.",
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
        why="torch raises torch.OutOfMemoryError only for a GPU; for host memory it is a bare RuntimeError.",
    ),
    PrivateApi(
        library="torch",
        kind="text",
        owner="libraries of a GPU",
        names=("out[ _]of[ _]", "_ALLOC", "_NOT_INITIALIZED"),
        where=("devices.py",),
        why="CUDA's runtime, cuBLAS, cuDNN and NCCL raise a bare RuntimeError when memory is full.",
    ),
    PrivateApi(
        library="torch",
        kind="text",
        owner="gloo when another rank is gone",
        names=("Connection closed by peer", "Connection reset by peer", "Broken pipe"),
        where=("pretrain.py",),
        why="A rank that loses another one stops quietly, so that users see the first error; the type is RuntimeError.",
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
        why="The original error of a task: errors that the user can fix are reraised unchanged.",
    ),
    PrivateApi(
        library="tensorboard",
        owner="tensorboard.compat.proto",
        names=("event_pb2", "summary_pb2"),
        where=("tensorboard.py", "event_files.py"),
        why="The messages of an event file. torch's SummaryWriter buffers, uses threads and hides write errors.",
    ),
    PrivateApi(
        library="tensorboard",
        owner="tensorboard.summary.writer.record_writer",
        names=("RecordWriter",),
        where=("tensorboard.py",),
        why="Frames a record with its checksums, for files that we write ourselves.",
    ),
    PrivateApi(
        library="tensorboard",
        owner="tensorboard.compat.tensorflow_stub.pywrap_tensorflow",
        names=("masked_crc32c",),
        where=("event_files.py",),
        why="The checksum of a record; the library's readers skip damage instead of reporting it.",
    ),
    PrivateApi(
        library="tensorboard",
        owner="tensorboard.util.tensor_util",
        names=("make_ndarray",),
        where=("event_files.py",),
        why="Newer writers store scalars as tensors.",
    ),
    PrivateApi(
        library="python",
        owner="multiprocessing.queues.Queue",
        names=("_on_queue_feeder_error",),
        where=("loader.py",),
        why="The thread that sends batches prints an error and drops the batch; the rank would wait for ever.",
    ),
    PrivateApi(
        library="python",
        owner="multiprocessing.forkserver",
        names=("ensure_running",),
        where=("loader.py",),
        why="The server has to start while signals are ignored, before the first loader process needs it.",
    ),
    PrivateApi(
        library="python",
        kind="text",
        owner="multiprocessing when a descriptor does not arrive",
        names=("received 0 items of ancdata",),
        where=("system_limits.py",),
        why="This is how too many open files appear in the process that receives a batch; the type is RuntimeError.",
    ),
    PrivateApi(
        library="python",
        owner="argparse.ArgumentParser",
        names=("_actions", "_option_string_actions"),
        where=("command_line.py",),
        why="Hints for a misspelt flag need the list of flags; argparse has no public list.",
    ),
    PrivateApi(
        library="python",
        owner="argparse",
        names=("_SubParsersAction",),
        where=("command_line.py",),
        why="The subcommands, for the help text.",
    ),
    PrivateApi(
        library="python",
        kind="text",
        owner="argparse when a word is not understood",
        names=("invalid choice: ", "choose from ", "unrecognized"),
        where=("command_line.py",),
        why="The hint names the nearest word; ArgumentParser.error receives only a text.",
    ),
)

PRIVATE_APIS = (*DEEPSPEED, *TORCH, *OTHERS)
