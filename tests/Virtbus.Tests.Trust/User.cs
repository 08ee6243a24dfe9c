using Virtbus.Platform;

namespace Virtbus.Tests.Trust;

/// <summary>
/// A process that uses devices as a test tells it: a job is a line of its standard input. For each it says on its standard output when it has
/// come to the operation that the test asked for, and how the job ended.
/// </summary>
internal static class User
{
    public const string Argument = "--user";

    /// <summary>It is at the operation before which it was to tell.</summary>
    public const string At = "at";

    /// <summary>It let go of the device, being asked to.</summary>
    public const string Left = "left";

    /// <summary>The device was taken away, or the daemon died.</summary>
    public const string Lost = "lost";

    /// <summary>It could not open the device.</summary>
    public const string Refused = "refused";

    /// <summary>It ended a job with more descriptors or mappings than it began with: the client's library keeps something.</summary>
    public const string Leaked = "leaked";

    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(10);

    public static void Run()
    {
        while (Console.ReadLine() is { } line)
        {
            var before = Holdings.OfThis();
            var end = Do(UserJob.Parse(line));
            var after = "";
            // A thread that has ended its work is seen for a while yet.
            var isClean = SpinWait.SpinUntil(() => (after = Holdings.OfThis()) == before, Patience);
            Console.WriteLine(isClean ? end : $"{Leaked}: {before} before, {after} after");
        }
    }

    private static string Do(UserJob job)
    {
        var random = new Random(job.Seed);
        var count = 0;
        Tell();
        UserDevice device;
        try
        {
            device = UserDevice.Open(job.Kind, job.Path, job.ByMessage, job.TwinSocket);
        }
        catch (VirtbusException)
        {
            return Refused;
        }
        using (device)
        {
            foreach (var part in device.SetUp)
            {
                Tell();
                part();
            }
            var monkey = new Monkey(device, random);
            while (device.Client.IsConnected)
            {
                Tell();
                if (job.LetsGo && device.TakeRequest())
                    return Left;
                monkey.Act();
            }
        }
        return Lost;

        void Tell()
        {
            if (count++ == job.Tell)
                Console.WriteLine(At);
        }
    }
}
