using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Tests.Hardware.Virtio;

/// <summary>A device comes up as the standard says, whatever its driver does in whatever order.</summary>
public sealed class VirtioStatusOrderTests(ITestOutputHelper output)
{
    // Each bit alone, and what drivers write.
    private static readonly int[] Wide =
    [
        0, ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, DEVICE_NEEDS_RESET, FAILED, 3, 7, 11, 15, 15 | FAILED, 16,
        StatusStep.Version, StatusStep.All, StatusStep.NoFeatures, StatusStep.Unoffered, StatusStep.Place, StatusStep.Enable, StatusStep.ResetQueue, StatusStep.Offer,
    ];

    // What gets far.
    private static readonly int[] Deep = [0, 3, 11, 15, StatusStep.All, StatusStep.Place, StatusStep.Enable, StatusStep.ResetQueue];

    [Fact]
    public void Every_order_of_four_steps_is_as_the_model_says() => Explore(Wide, 4, []);

    [Fact]
    public void Every_order_of_six_steps_that_get_far_is_as_the_model_says() => Explore(Deep, 6, []);

    [Fact]
    public void Every_order_of_four_steps_of_a_device_that_runs_is_as_the_model_says() =>
        Explore([.. Wide, StatusStep.Break], 4, [3, StatusStep.All, 11, StatusStep.Place, StatusStep.Enable, 15]);

    [Fact]
    public void Every_value_in_every_state_is_as_the_model_says()
    {
        using var world = new StatusWorld();
        var paths = new Queue<int[]>([[]]);
        var seen = new HashSet<StatusModel> { default };
        var tried = 0;
        while (paths.TryDequeue(out var path))
        {
            for (var step = 0; step < StatusStep.Count; step++)
            {
                world.Reset();
                foreach (var before in path)
                    Check(world, before, path);
                Check(world, step, path);
                tried++;
                if (seen.Add(world.Model))
                    paths.Enqueue([.. path, step]);
            }
        }

        output.WriteLine($"{seen.Count} states, {tried} steps from them");
        Assert.InRange(seen.Count, 100, 100_000);
    }

    private static void Explore(int[] steps, int depth, int[] first)
    {
        using var world = new StatusWorld();
        var at = new int[depth];
        while (true)
        {
            world.Reset();
            foreach (var step in first)
                Check(world, step, first);
            foreach (var index in at)
            {
                if (world.Do(steps[index]) is { } wrong)
                    Assert.Fail($"{string.Join(", ", first.Concat(at.Select(i => steps[i])).Select(StatusStep.Name))}: {wrong}");
            }

            var place = depth - 1;
            while (place >= 0 && ++at[place] == steps.Length)
                at[place--] = 0;
            if (place < 0)
                return;
        }
    }

    private static void Check(StatusWorld world, int step, int[] path)
    {
        if (world.Do(step) is { } wrong)
            Assert.Fail($"{string.Join(", ", path.Select(StatusStep.Name))} -> {StatusStep.Name(step)}: {wrong}");
    }
}
