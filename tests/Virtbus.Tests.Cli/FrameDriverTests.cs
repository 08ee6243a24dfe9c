namespace Virtbus.Tests.Cli;

/// <summary>The sample of a network driver in user space, <c>samples/tutorial/frame_driver</c>, on functions of a daemon.</summary>
public sealed class FrameDriverTests
{
    private const int Frames = 12;

    private const string Manifest = """
        adapters:
          - name: adapter0
            model: merlin
            vfs: 2
            vf_profiles:
              - { vf: 0, mac: "06:00:00:00:aa:01", driver: vfio-pci }
              - { vf: 1, mac: "06:00:00:00:aa:02", driver: vfio-pci }
        functions:
          - { name: nic0, virtio: net, mac: "02:00:00:00:00:01", queues: 2 }
          - { name: nic1, virtio: net, mac: "02:00:00:00:00:02", packed: true }
          - { name: dice0, virtio: rng }
        """;

    /// <summary>Where its build is.</summary>
    public static string Folder { get; } = Path.GetFullPath(Path.Combine(AppContext.BaseDirectory, "../../frame_driver/release"));

    private static string Modules => Path.Combine(Path.GetDirectoryName(TestFabric.Program)!, "modules");

    [Theory]
    // Virtual functions of an adapter, and virtio functions with split and with packed rings: other drivers, the same program.
    [InlineData("0000:01:00.1", "06:00:00:00:aa:01", "0000:01:00.2", "06:00:00:00:aa:02")]
    [InlineData("0000:03:00.0", "02:00:00:00:00:01", "0000:05:00.0", "02:00:00:00:00:02")]
    public async Task Two_programs_exchange_frames_through_functions_that_they_open(string first, string firstMac, string second, string secondMac)
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        var echo = TestFabric.EndAsync(Start(fabric, first, "echo"));
        var send = TestFabric.EndAsync(Start(fabric, second, "send"));
        Assert.Equal(new ProgramRun(0, $"enp1s0np0 {secondMac}\n{Frames} frames of 60 to 1514 bytes came back as they went\n", ""), await send);
        Assert.Equal(new ProgramRun(0, $"enp1s0np0 {firstMac}\n{Frames} frames sent back\n", ""), await echo);
    }

    [Fact]
    public async Task Program_says_what_is_wrong_with_a_function()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        Assert.StartsWith("usage: ", (await TestFabric.EndAsync(Start(fabric, "0000:03:00.0", "listen"))).Errors, StringComparison.Ordinal);
        await SeeRefusedAsync("0000:0f:00.0", "ENOENT");
        await SeeRefusedAsync("0000:07:00.0", "Function 0000:01:00.0 is no network interface.");

        async Task SeeRefusedAsync(string function, string message)
        {
            var run = await TestFabric.EndAsync(Start(fabric, function, "send"));
            Assert.True(run is { Code: 1, Output: "" } && run.Errors.StartsWith("frame_driver: ", StringComparison.Ordinal), run.ToString());
            Assert.Contains(message, run.Errors, StringComparison.Ordinal);
        }
    }

    private static System.Diagnostics.Process Start(TestFabric fabric, string function, string verb) =>
        fabric.StartProgram("dotnet", Path.Combine(Folder, "frame_driver.dll"), "vfio-user", Path.Combine(fabric.Runtime, function + ".sock"), Modules, verb, $"{Frames}");
}
