using System.Security.Cryptography;
using Virtbus.Platform;

namespace VfioUserDriver;

/// <summary>A driver in user space: has a virtual function of a merlin adapter copy memory, and checks what it did.</summary>
internal static class Program
{
    private const int Bytes = 0x10000;
    private const int From = MerlinDriver.MemoryNeeded;
    private const int To = From + Bytes;

    private static int Main(string[] words)
    {
        if (words is not [var path])
        {
            Console.Error.WriteLine("usage: vfio_user_driver SOCKET    of a virtual function of a merlin adapter; 'virtbus up' prints the sockets");
            return 2;
        }

        try
        {
            using var function = new UserFunction(path);
            Describe(function);
            var driver = new MerlinDriver(function);
            function.Enable(memorySize: To + Bytes, vectors: 1);
            driver.Start();

            var bytes = RandomNumberGenerator.GetBytes(Bytes);
            function.Memory.Write(From, bytes);
            driver.Run(MerlinDriver.CopyCommand, function.AddressOf(From), function.AddressOf(To), Bytes);
            var copied = new byte[Bytes];
            function.Memory.Read(To, copied);
            if (!copied.AsSpan().SequenceEqual(bytes))
                throw new VirtbusException(Errno.EIO, $"The function at '{path}' answered, but did not copy what it was told to. That is a defect of it.");
            Console.WriteLine($"copied {Bytes} bytes by DMA, told by MSI-X: the same");
            driver.Stop();
            return 0;
        }
        catch (VirtbusException e)
        {
            Console.Error.WriteLine($"vfio_user_driver: {e.Message}");
            return 1;
        }
    }

    private static void Describe(UserFunction function)
    {
        Console.WriteLine($"function {(ushort)function.Identity:x4}:{function.Identity >> 16:x4}, {(function.Client.Info.CanReset ? "can be reset" : "cannot be reset")}");
        for (var region = 0u; region < function.Client.Info.Regions; region++)
        {
            if (function.Client.TryGetRegionInfo(region, out var info, out _) && info!.Size != 0)
                Console.WriteLine($"region {region}: {info.Size} bytes, {info.Flags}");
        }

        for (var index = 0u; index < function.Client.Info.Interrupts; index++)
        {
            if (function.Client.TryGetIrqInfo(index, out var info, out _) && info.Count != 0)
                Console.WriteLine($"interrupt index {index}: {info.Count}, {info.Flags}");
        }
    }
}
