from spack_repo.builtin.build_systems.cargo import CargoPackage

from spack.package import *


class Phalanx(CargoPackage):
    """Runs graph workloads on MPI clusters: one TOML file, started by mpirun or sbatch."""

    # Nothing is published yet: build a checkout with `spack dev-build phalanx@0.1.0`.
    version("0.1.0")

    license("MIT OR Apache-2.0")

    depends_on("c", type="build")
    depends_on("rust@1.95:", type="build")
    depends_on("llvm+clang", type="build")
    depends_on("pkgconfig", type="build")
    depends_on("mpi")
    depends_on("hwloc@2:")

    def setup_build_environment(self, env):
        env.set("MPICC", self.spec["mpi"].mpicc)
        env.set("LIBCLANG_PATH", self.spec["llvm"].prefix.lib)

    @run_after("install")
    def install_pages(self):
        # Manual pages, completions, the batch script and the documents.
        with working_dir(self.stage.source_path):
            Executable("packaging/stage")(self.prefix.bin.phalanx, "stage", self.prefix)
            install_tree("stage/share", self.prefix.share)
