"""A driver of cinder whose volumes are files of this machine. services.sh puts it among cinder's as cinder.volume.drivers.ibos."""

import os

from cinder import interface
from cinder.volume import driver

FOLDER = "/bed/state/volumes"


def path(volume):
    """The file that is the volume."""
    return os.path.join(FOLDER, volume["id"])


@interface.volumedriver
class FileDriver(driver.VolumeDriver):
    """Sparse files, which server.sh makes disks of servers."""

    VERSION = "1"

    def check_for_setup_error(self):
        os.makedirs(FOLDER, exist_ok=True)

    def _update_volume_stats(self):
        self._stats = {
            "volume_backend_name": "files", "vendor_name": "tests", "driver_version": self.VERSION, "storage_protocol": "file",
            "total_capacity_gb": "infinite", "free_capacity_gb": "infinite",
        }

    def create_volume(self, volume):
        with open(path(volume), "xb") as file:
            file.truncate(volume["size"] << 30)

    def delete_volume(self, volume):
        if os.path.exists(path(volume)):
            os.remove(path(volume))

    def ensure_export(self, context, volume):
        pass

    def create_export(self, context, volume, connector):
        pass

    def remove_export(self, context, volume):
        pass

    def initialize_connection(self, volume, connector):
        return {"driver_volume_type": "file", "data": {"path": path(volume)}}

    def terminate_connection(self, volume, connector, **kwargs):
        pass
