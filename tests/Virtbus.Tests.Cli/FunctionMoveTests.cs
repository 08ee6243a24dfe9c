namespace Virtbus.Tests.Cli;

/// <summary>The sample that moves a function, <c>samples/tutorial/function_move</c>, run between two daemons.</summary>
public sealed class FunctionMoveTests
{
    private const string Manifest = """
        functions:
          - { name: nic0, virtio: net, vfs: 2, driver: virtio-pci }
          - { name: disk0, virtio: blk, memory: 4MiB, vfs: 1, driver: virtio-pci }
        """;

    /// <summary>Where its build is.</summary>
    public static string Folder { get; } = Path.GetFullPath(Path.Combine(AppContext.BaseDirectory, "../../function_move/release"));

    [Fact]
    public async Task State_of_a_function_is_at_another_daemon_and_what_does_not_go_leaves_both_as_they_were()
    {
        await using TestFabric first = new(), second = new();
        foreach (var fabric in (TestFabric[])[first, second])
        {
            await fabric.UpAsync(Manifest);
            await fabric.OkAsync("driver", "override", "nic0v0", "virtio-vfio-pci");
            await fabric.OkAsync("driver", "override", "disk0v0", "virtio-vfio-pci");
        }

        foreach (var address in (string[])["0000:01:00.1", "0000:03:00.1"])
        {
            var run = await MoveAsync(SocketOf(first, address), SocketOf(second, address));
            Assert.True(run is { Code: 0, Errors: "" }, run.ToString());
            Assert.Matches("source: status 0x0b, .*\ntarget: status 0x00, .*\nmoved [0-9]+ bytes of state\ntarget: status 0x0b, ", run.Output);
        }

        await SeeRefusedAsync("0000:01:00.1", "0000:03:00.1", "does not take the state: EINVAL");
        await SeeRefusedAsync("0000:01:00.2", "0000:01:00.1", "A function does not migrate. Give it a driver that does");
        // What was refused took nothing along.
        Assert.Equal(0, (await MoveAsync(SocketOf(first, "0000:01:00.1"), SocketOf(second, "0000:01:00.1"))).Code);
        Assert.Equal(2, (await MoveAsync()).Code);

        async Task SeeRefusedAsync(string from, string to, string message)
        {
            var run = await MoveAsync(SocketOf(first, from), SocketOf(second, to));
            Assert.True(run.Code == 1 && run.Errors.StartsWith("function_move: ", StringComparison.Ordinal), run.ToString());
            Assert.Contains(message, run.Errors, StringComparison.Ordinal);
        }

        Task<ProgramRun> MoveAsync(params string[] sockets) => TestFabric.EndAsync(first.StartProgram("dotnet", [Path.Combine(Folder, "function_move.dll"), .. sockets]));
    }

    private static string SocketOf(TestFabric fabric, string address) => Path.Combine(fabric.Runtime, address + ".sock");
}
