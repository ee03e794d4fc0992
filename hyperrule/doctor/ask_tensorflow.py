"""Run as a script, in a process of its own: imports TensorFlow and prints what it sees, as JSON."""

import json


def main() -> None:
    import tensorflow as tf

    build = tf.sysconfig.get_build_info()
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    seen = {"gpus": [gpu.get("device_name", "unknown") for gpu in gpus], "cuda": build.get("cuda_version")}
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
