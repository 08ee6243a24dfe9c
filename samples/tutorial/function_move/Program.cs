using Virtbus.Platform;
using Virtbus.Remote.Pci.VfioUser;
using Virtbus.Virtio;

namespace FunctionMove;

/// <summary>Sets a virtio function up, brings its state to another one, of another daemon perhaps, and sees that it is there.</summary>
internal static class Program
{
    private static int Main(string[] words)
    {
        if (words is not [var source, var target])
        {
            Console.Error.WriteLine("usage: function_move SOCKET SOCKET    of two virtio functions of one kind that migrate; 'virtbus socket list' prints the sockets");
            return 2;
        }

        try
        {
            using var from = Open(source);
            using var to = Open(target);
            var driver = new VirtioRegisterTransport(new VirtioFunctionRegisters(from));
            var wanted = VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1, VirtioFeatures.VIRTIO_F_ACCESS_PLATFORM);
            Check(driver.TrySetStatus(VirtioStatus.ACKNOWLEDGE, out var fault), fault);
            Check(driver.TrySetStatus(VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER, out fault), fault);
            Check(driver.TrySetDriverFeatures(wanted, out fault), fault);
            Check(driver.TrySetStatus(VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER | VirtioStatus.FEATURES_OK, out fault), fault);
            var other = new VirtioRegisterTransport(new VirtioFunctionRegisters(to));
            Tell("source", driver);
            Tell("target", other);
            Console.WriteLine($"moved {StateMove.Run(from, to)} bytes of state");
            Tell("target", other);
            return 0;
        }
        catch (VirtbusException e)
        {
            Console.Error.WriteLine($"function_move: {e.Message}");
            return 1;
        }
    }

    // The other end of it waits no longer than a person does.
    private static VfioUserClient Open(string path) => VfioUserClient.Connect(path, new VfioUserClientOptions { Timeout = TimeSpan.FromSeconds(5) });

    private static void Tell(string which, VirtioRegisterTransport driver) => Console.WriteLine($"{which}: status 0x{driver.Status:x2}, features of the driver 0x{driver.DriverFeatures.Word(1):x8}{driver.DriverFeatures.Word(0):x8}");

    private static void Check(bool done, Fault fault)
    {
        if (!done)
            throw new VirtbusException(fault.Errno, $"The function does not take a step of its driver: {fault.Message}.");
    }
}
