/* Each rank prints its rank and the size of its world and adds up the ranks. Ends with an error unless the size is argv[1]. With a second
 * argument it then waits to be ended. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int rank, size, sum;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    const char *task = getenv("PHALANX_TASK_ID");
    printf("rank %d of %d sum %d task %s pid %d\n", rank, size, sum, task ? task : "none", (int)getpid());
    fflush(stdout);
    if (argc > 2)
        sleep(600);
    MPI_Finalize();
    return argc > 1 && atoi(argv[1]) == size && sum == size * (size - 1) / 2 ? 0 : 9;
}
