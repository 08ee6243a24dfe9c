
namespace Virtbus.Tests.Cli;

/// <summary>The sample of a driver in user space, <c>samples/tutorial/vfio_user_driver</c>, run on a daemon. VS-13.</summary>
public sealed class UserDriverTests
{
    private const string Manifest = """
        adapters:
          - name: adapter0
            model: merlin
            vfs: 1
            vf_profiles:
              - { vf: 0, driver: vfio-pci }
        serials:
          - { name: serial0 }
        """;

    /// <summary>Where its build is.</summary>
    public static string Folder { get; } = Path.GetFullPath(Path.Combine(AppContext.BaseDirectory, "../../vfio_user_driver/release"));

    [Fact]
    public async Task Function_copies_memory_for_a_driver_in_user_space_and_is_free_for_the_next()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        for (var time = 0; time < 2; time++)
        {
            var run = await DriveAsync(fabric, "0000:01:00.1.sock");
            Assert.True(run is { Code: 0, Errors: "" }, run.ToString());
            Assert.StartsWith("function 5642:1002, can be reset\nregion 0: 65536 bytes, ", run.Output, StringComparison.Ordinal);
            Assert.EndsWith("\ncopied 65536 bytes by DMA, told by MSI-X: the same\n", run.Output, StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task Driver_says_what_is_wrong_with_a_socket()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        await SeeRefusedAsync("nothing.sock", "nothing.sock': ENOENT. Check that its server runs");
        await SeeRefusedAsync("control.sock", "control.sock' does not let this client in: EMSGSIZE, ");
        await SeeRefusedAsync("0000:03:00.0.sock", "The function is a 1b36:0002. Choose a 5642:1002");
        var usage = await TestFabric.EndAsync(fabric.StartProgram("dotnet", Path.Combine(Folder, "vfio_user_driver.dll")));
        Assert.Equal(2, usage.Code);
        Assert.StartsWith("usage: ", usage.Errors, StringComparison.Ordinal);

        async Task SeeRefusedAsync(string socket, string message)
        {
            var run = await DriveAsync(fabric, socket);
            Assert.True(run.Code == 1 && run.Errors.StartsWith("vfio_user_driver: ", StringComparison.Ordinal), run.ToString());
            Assert.Contains(message, run.Errors, StringComparison.Ordinal);
        }
    }

    private static Task<ProgramRun> DriveAsync(TestFabric fabric, string socket) =>
        TestFabric.EndAsync(fabric.StartProgram("dotnet", Path.Combine(Folder, "vfio_user_driver.dll"), Path.Combine(fabric.Runtime, socket)));
}
